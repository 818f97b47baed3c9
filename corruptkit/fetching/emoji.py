"""Emoji of nine styles, from npm packages: one drawing a row, its CLDR label as caption, its Unicode group as class label."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from corruptkit.fetching.archives import Archive, check_tools, obtain_archive, read_members
from corruptkit.fetching.drawings import check_size, render_svg
from corruptkit.fetching.folder import (
    Fetched,
    Sample,
    archive_folder,
    hold_folder,
    is_complete,
    show_progress,
    write_license,
    write_record,
    write_shards,
)
from corruptkit.fetching.packages import load_modules, other_versions

ICONS = Archive(
    "npm", "@iconify/json", "2.2.535", "iconify-json-2.2.535.tgz", "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91"
)
NAMES = Archive(
    "npm", "emojibase-data", "17.0.0", "emojibase-data-17.0.0.tgz", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
)
PINNED = {"resvg-py": "0.5.0"}
ROWS = 22537

_CC = "https://creativecommons.org/licenses"


class Style(NamedTuple):
    """A set of drawings: whose they are and under what licence, as the set itself says."""

    author: str
    home: str
    license: str
    license_url: str

    @property
    def attribution(self) -> str:
        return f"{self.author}, {self.home}. License: {self.license}"


_GOOGLE = ("Google Inc", "https://github.com/googlefonts/noto-emoji", "Apache-2.0")
_FLUENT = ("Microsoft Corporation", "https://github.com/microsoft/fluentui-emoji", "MIT")
STYLES = {
    "emojione": Style("Emoji One", "https://github.com/EmojiTwo/emojitwo", "CC-BY-4.0", f"{_CC}/by/4.0/"),
    "emojione-v1": Style("Emoji One", "https://github.com/joypixels/emojione-legacy", "CC-BY-SA-4.0", f"{_CC}/by-sa/4.0/"),
    "fluent-emoji": Style(*_FLUENT, "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE"),
    "fluent-emoji-flat": Style(*_FLUENT, "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE"),
    "fxemoji": Style("Mozilla", "https://github.com/mozilla/fxemoji", "Apache-2.0", "https://mozilla.github.io/fxemoji/LICENSE.md"),
    "noto": Style(*_GOOGLE, "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE"),
    "noto-v1": Style(*_GOOGLE, "https://github.com/googlefonts/noto-emoji/blob/main/svg/LICENSE"),
    "openmoji": Style("OpenMoji", "https://github.com/hfg-gmuend/openmoji", "CC-BY-SA-4.0", f"{_CC}/by-sa/4.0/"),
    "twemoji": Style("Twitter", "https://github.com/jdecked/twemoji", "CC-BY-4.0", f"{_CC}/by/4.0/"),
}
# Unicode's groups, by emojibase's words for them, in ascending order of their names: the classes of `openmoji`, numbered as there.
GROUPS = {
    "activities": "Activities",
    "animals-nature": "Animals & Nature",
    "component": "Component",
    "flags": "Flags",
    "food-drink": "Food & Drink",
    "objects": "Objects",
    "people-body": "People & Body",
    "smileys-emotion": "Smileys & Emotion",
    "symbols": "Symbols",
    "travel-places": "Travel & Places",
}
CLASS_NAMES = tuple(GROUPS.values())
# A set that names its drawings as another one does, which alone says their code points.
_TWINS = {"fluent-emoji": "fluent-emoji-flat"}
_TONE = re.compile("-(dark|light|medium|medium-dark|medium-light)$")


class Emoji(NamedTuple):
    """What Unicode says of an emoji: code points in hexadecimal joined by '-' without FE0F, CLDR's English label, the class."""

    code: str
    caption: str
    label: int | None  # None where Unicode gives no group: single regional indicators


class Unicode(NamedTuple):
    """All emoji, by code points and by the label as a name of letters, digits and hyphens."""

    by_code: Mapping[str, Emoji]
    by_name: Mapping[str, Emoji]


def fetch_emoji(out: Path, *, size: int = 64, given: Path | None = None, progress: bool = False) -> Path:
    """Render nine styles of emoji into WebDataset shards under `out`, `size` pixels wide and high, and return `out`.

    `given` is a folder that holds the npm packages already. The bytes written depend on `size` and the packages alone.
    """
    check_size("emoji", size)
    if not is_complete(out, "emoji", size):
        versions, (renderer,) = load_modules("emoji", PINNED, ("resvg_py",), "emoji")
        check_tools("emoji", (ICONS, NAMES), given)
        with hold_folder(out, "emoji") as fetching:
            store = archive_folder(fetching)
            icons, names = (obtain_archive("emoji", archive, store, given) for archive in (ICONS, NAMES))
            write_license(out, _license_text(versions, size))
            left_out: Counter[str] = Counter(hidden=0, without_name=0, without_category=0)
            with show_progress("emoji", ROWS, "emoji", progress=progress) as bar:
                shards = write_shards(out, "emoji-train", render_rows(icons, read_names(names), renderer, size, left_out), bar)
            versions |= {archive.package: archive.version for archive in (ICONS, NAMES)}
            write_record(out, Fetched("emoji", size, left_out, versions, other_versions(PINNED, versions)), shards)
    return out


def read_names(path: Path) -> Unicode:
    """CLDR's English labels and Unicode's groups of all emoji, from emojibase-data; a label's name that two share is nobody's."""
    files = dict(read_members(path, r"package/en/(data|messages)\.json"))
    groups = {group["order"]: group["key"] for group in json.loads(files["package/en/messages.json"])["groups"]}
    by_code, by_name = {}, {}
    for entry in json.loads(files["package/en/data.json"]):
        group = groups.get(entry.get("group"))
        label = None if group is None else CLASS_NAMES.index(GROUPS[group])
        for one in (entry, *entry.get("skins", ())):
            emoji = Emoji(bare_code(one["hexcode"]), one["label"], label)
            by_code[emoji.code] = emoji
            by_name[hyphen_name(emoji.caption)] = emoji
    shared = Counter(hyphen_name(emoji.caption) for emoji in by_code.values())
    return Unicode(by_code, {name: emoji for name, emoji in by_name.items() if shared[name] == 1})


def render_rows(icons: Path, unicode: Unicode, renderer: Any, size: int, left_out: Counter[str]) -> Iterator[Sample]:
    """Every drawing that is an emoji with a group, style by style; `left_out` counts the others."""
    codes: dict[str, dict[str, str]] = {}
    for member, content in read_members(icons, rf"package/json/({'|'.join(STYLES)})\.json"):
        style = member.removeprefix("package/json/").removesuffix(".json")
        drawings = json.loads(content)
        codes[style] = {name: bare_code(code) for code, name in drawings.get("chars", {}).items()}
        for emoji, icon in choose_icons(drawings["icons"], codes[_TWINS.get(style, style)], unicode, left_out):
            yield _render_icon(style, emoji, _write_svg(icon, drawings), renderer, size)


def choose_icons(icons: Mapping[str, Any], codes: Mapping[str, str], unicode: Unicode, left_out: Counter[str]) -> list[tuple[Emoji, Any]]:
    """The drawings of a style that are shown, have a CLDR label and a group, by ascending code points."""
    chosen = []
    for name, icon in icons.items():
        emoji = find_emoji(name, codes, unicode)
        if icon.get("hidden"):
            left_out["hidden"] += 1
        elif emoji is None:
            left_out["without_name"] += 1
        elif emoji.label is None:
            left_out["without_category"] += 1
        else:
            chosen.append((emoji, icon))
    return sorted(chosen, key=lambda row: row[0].code)


def find_emoji(name: str, codes: Mapping[str, str], unicode: Unicode) -> Emoji | None:
    """The emoji that a drawing is: by the code points that its set states, else by its name, with 'skin tone' after a tone or not."""
    stated = unicode.by_code.get(codes.get(name, ""))
    return stated or unicode.by_name.get(name) or unicode.by_name.get(_TONE.sub(r"-\1-skin-tone", name))


def hyphen_name(label: str) -> str:
    """A label as the sets name their drawings: 'flag: St. Lucia' is 'flag-st-lucia'."""
    bare = re.sub("['.\u2019]", "", label.lower().replace("&", " and "))
    return re.sub("[^a-z0-9]+", "-", bare).strip("-")


def bare_code(code: str) -> str:
    return code.upper().replace("-FE0F", "")


def _write_svg(icon: Mapping[str, Any], drawings: Mapping[str, Any]) -> str:
    """A whole SVG of a drawing, whose set states the sizes that it does not."""
    left, top, width, height = (
        icon.get(side, drawings.get(side, usual)) for side, usual in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


def _render_icon(style: str, emoji: Emoji, svg: str, renderer: Any, size: int) -> Sample:
    said = STYLES[style]
    facts = {
        "style": style,
        "source": f"{ICONS.package} {ICONS.version}",
        "license": said.license,
        "license_url": said.license_url,
        "attribution": said.attribution,
    }
    assert emoji.label is not None
    return Sample(f"{style}/{emoji.code}", render_svg(renderer, svg, size), emoji.label, emoji.caption, facts)


def _license_text(versions: Mapping[str, str], size: int) -> str:
    styles = "\n".join(f"  {name}: {style.attribution}, {style.license_url}" for name, style in STYLES.items())
    return f"""Emoji of nine styles, rendered by corruptkit

Each row is under the licence of its style, which its JSON states. The styles, as {ICONS.package} {ICONS.version} states them:
{styles}
Changes: each drawing that has a CLDR label and a group was rendered to a PNG of {size} x {size} pixels on white by resvg-py
{versions["resvg-py"]}; one that is not square was stretched or padded by the renderer; nothing else was altered.
Captions: English short names of Unicode CLDR (Unicode License v3), from {NAMES.package} {NAMES.version} (MIT).
Labels: Unicode's emoji groups, from there, in ascending order of their names:
{chr(10).join(f"  {label} {name}" for label, name in enumerate(CLASS_NAMES))}
"""
