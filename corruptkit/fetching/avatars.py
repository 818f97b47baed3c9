"""Avatars composed by DiceBear's rules from hand-drawn parts: the style as class label, the parts and their colours as caption."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from corruptkit.errors import DatasetError, Problem
from corruptkit.fetching.drawings import check_size, render_svg
from corruptkit.fetching.folder import Fetched, Sample, hold_folder, is_complete, show_progress, write_license, write_record, write_shards
from corruptkit.fetching.packages import load_modules, other_versions

PINNED = {"dicebear-core": "10.7.0", "dicebear-styles": "10.6.0", "resvg-py": "0.5.0"}
# Styles under CC0 1.0 whose parts have names that can be read, with the words for one of each, in ascending order.
STYLES = {
    "cameo": "a cameo",
    "clay": "a clay figure",
    "constellation": "a constellation",
    "critters": "a critter",
    "cutouts": "a paper cutout face",
    "gaze": "a gazing shape",
    "landscape": "a landscape",
    "line-face": "a line drawing of a face",
    "marbles": "a marble",
    "moods": "a moody face",
    "open-peeps": "a hand-drawn person",
    "patchwork": "a patchwork",
    "pixelbot": "a pixel robot",
    "planets": "a planet",
    "shadows": "a silhouette",
    "slice": "a sliced shape",
    "sprouts": "a potted sprout",
    "stack": "a stack of stones",
    "voxel-art": "a voxel person",
    "voxel-bot": "a voxel robot",
}
CLASS_NAMES = tuple(STYLES)
SEEDS = 500  # of each style: 0 to 499
LICENSE = "CC0 1.0"
LICENSE_URL = "https://creativecommons.org/publicdomain/zero/1.0/"
ATTRIBUTION = "none needed; composed by DiceBear, https://www.dicebear.com/, of parts that their authors placed under CC0 1.0"
_HUES = ((20, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (260, "blue"), (290, "purple"), (345, "pink"), (360, "red"))


class Packages(NamedTuple):
    """The modules of the extra `avatars` and the versions of what they came in."""

    versions: dict[str, str]
    dicebear: Any
    dicebear_styles: Any
    resvg_py: Any


def fetch_avatars(out: Path, *, size: int = 64, progress: bool = False) -> Path:
    """Compose and render avatars into WebDataset shards under `out`, `size` pixels wide and high, and return `out`.

    The bytes written depend on `size` and the packages' versions alone.
    """
    check_size("avatars", size)
    if not is_complete(out, "avatars", size):
        versions, modules = load_modules("avatars", PINNED, Packages._fields[1:], "avatars")
        packages = Packages(versions, *modules)
        styles = {name: load_style(name) for name in STYLES}
        with hold_folder(out, "avatars"):
            write_license(out, _license_text(styles, versions, size))
            with show_progress("avatars", len(STYLES) * SEEDS, "avatars", progress=progress) as bar:
                shards = write_shards(out, "avatars-train", compose_rows(styles, packages, size), bar)
            write_record(out, Fetched("avatars", size, {}, versions, other_versions(PINNED, versions)), shards)
    return out


def load_style(name: str) -> Any:
    """A style's parts and rules. Raises DatasetError where its author did not place it under CC0."""
    style = json.loads(files("dicebear_styles").joinpath(f"{name}.json").read_text(encoding="utf-8"))
    license = style["meta"]["license"]["name"]  # noqa: A001 - the word of the file
    if license != LICENSE:
        raise DatasetError(Problem("avatars", f"the style {name} is under {license}", LICENSE, "pip install 'corruptkit[avatars]'"))
    return style


def compose_rows(styles: Mapping[str, Any], packages: Packages, size: int) -> Iterator[Sample]:
    """The avatars of each style in turn, by ascending seed; the key is the style and the seed."""
    source = f"dicebear-styles {packages.versions['dicebear-styles']}"
    same = {"source": source, "license": LICENSE, "license_url": LICENSE_URL, "attribution": ATTRIBUTION}
    for name, parts in styles.items():
        style = packages.dicebear.Style(parts)
        for seed in range(SEEDS):
            made = packages.dicebear.Avatar(style, {"seed": str(seed)}).to_json()
            image = render_svg(packages.resvg_py, made["svg"], size)
            yield Sample(f"{name}/{seed:04d}", image, CLASS_NAMES.index(name), write_caption(name, made["options"]), same)


def write_caption(style: str, options: Mapping[str, Any]) -> str:
    """What an avatar is composed of: 'a critter with blue tower body, happy eyes and tooth mouth, on a red background'.

    The style's words, then its parts by ascending name, each as [colour of its own] variant part; neither what animates, nor the
    many stars of a sky, nor the variant 'default'; last the background, where it has one.
    """
    parts = []
    for option in sorted(options):
        part, variant = option.removesuffix("Variant"), options[option]
        if option.endswith("Variant") and isinstance(variant, str) and variant != "default":
            colour = name_colour(options.get(f"{part}Color"))
            if not re.fullmatch("animation|star[0-9]*", part):
                parts.append(" ".join(filter(None, (colour, split_words(variant), split_words(part)))))
    caption = STYLES[style]
    if parts:
        caption += f" with {', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]}"
    background = name_colour(options.get("backgroundColor"))
    article = "an" if background == "orange" else "a"
    return f"{caption}, on {article} {background} background" if background else caption


def split_words(name: str) -> str:
    """A part's name as words: 'earsDroop' is 'ears droop', 'block01' is 'block 1'."""
    return re.sub("(?<=[a-z])0*(?=[A-Z1-9])", " ", name).lower()


def name_colour(colours: Any) -> str:
    """A word for the first of some colours '#rrggbb', in integers alone: by hue in degrees, by lightness where there is little hue."""
    if not isinstance(colours, list) or not colours or not re.fullmatch("#[0-9a-fA-F]{6}", colours[0]):
        return ""
    red, green, blue = bytes.fromhex(colours[0][1:])
    most, least = max(red, green, blue), min(red, green, blue)
    spread = most - least
    if spread < 32:
        return "black" if most < 72 else "white" if least >= 216 else "grey"
    if most == red:
        hue = 60 * (green - blue) // spread % 360
    elif most == green:
        hue = 120 + 60 * (blue - red) // spread
    else:
        hue = 240 + 60 * (red - green) // spread
    word = next(word for limit, word in _HUES if hue <= limit)
    return "brown" if word in ("red", "orange") and most < 168 and hue > 10 else word


def _license_text(styles: Mapping[str, Any], versions: Mapping[str, str], size: int) -> str:
    lines = []
    for label, (name, style) in enumerate(styles.items()):
        meta = style["meta"]
        lines.append(f"  {label} {name}: '{meta['source']['name']}' by {meta['creator']['name']}, {meta['source']['url']}, {LICENSE}")
    return f"""Avatars, procedurally composed by corruptkit

Licence of every style and of these renders: {LICENSE}, {LICENSE_URL}
Attribution: {ATTRIBUTION}
Made with dicebear-core {versions["dicebear-core"]} of parts of dicebear-styles {versions["dicebear-styles"]}:
the seeds 0 to {SEEDS - 1} of each style, rendered to PNGs of {size} x {size} pixels on white by resvg-py {versions["resvg-py"]}.
No image was found or drawn as a whole.
Captions: the names of the parts that were drawn and words for their colours, by corruptkit's rule.
Labels and styles:
{chr(10).join(lines)}
"""
