"""Open Clip Art 0.18 from two Debian packages: PNGs as they are, the titles that people gave them as captions, their folder as label."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from corruptkit.fetching.archives import Archive, check_tools, obtain_archive, read_members
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

VERSION = "1:0.18+dfsg-19"
_FILE = "1%3a0.18+dfsg-19_all.deb"
_SHA256 = {
    "png": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "svg": "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
}
IMAGES, DRAWINGS = (Archive("apt", f"openclipart-{kind}", VERSION, f"openclipart-{kind}_{_FILE}", _SHA256[kind]) for kind in _SHA256)
ROWS = 5440
CLASS_NAMES = (
    "animals",
    "buildings",
    "buttons",
    "computer",
    "containers",
    "decorations",
    "education",
    "electronics",
    "food",
    "geography",
    "logos",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "shapes",
    "signs_and_symbols",
    "special",
    "tools",
    "transportation",
    "unsorted",
)
LARGEST = 1 << 24  # pixels: 17 images have up to 623 million, which decoders refuse or die of
LICENSE = "Public Domain"
LICENSE_URL = "https://creativecommons.org/licenses/publicdomain/"
ATTRIBUTION = "none needed; the Open Clip Art Library 0.18 and its contributors, http://www.openclipart.org/"
_FREE = ("http://web.resource.org/cc/PublicDomain", "http://creativecommons.org/licenses/publicdomain/")
_STARS = "shapes/stars/"  # 1,378 polygons from a generator, nearly all of one title
_REASONS = ("generated_stars", "without_metadata", "without_title", "without_public_domain", "too_large")


class Drawing(NamedTuple):
    """What the metadata of an SVG says of the work."""

    title: str
    license: str


def fetch_openclipart(out: Path, *, given: Path | None = None, progress: bool = False) -> Path:
    """Write Open Clip Art's PNGs with their titles into WebDataset shards under `out`, and return `out`.

    `given` is a folder that holds both Debian packages already. The bytes written depend on the packages alone.
    """
    if not is_complete(out, "openclipart"):
        check_tools("openclipart", (IMAGES, DRAWINGS), given)
        with hold_folder(out, "openclipart") as fetching:
            store = archive_folder(fetching)
            images, drawings = (obtain_archive("openclipart", archive, store, given) for archive in (IMAGES, DRAWINGS))
            write_license(out, _LICENSE_TEXT)
            left_out: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
            with show_progress("openclipart", ROWS, "images", progress=progress) as bar:
                shards = write_shards(out, "openclipart-train", choose_rows(images, read_drawings(drawings), left_out), bar)
            versions = {archive.package: archive.version for archive in (IMAGES, DRAWINGS)}
            write_record(out, Fetched("openclipart", None, left_out, versions), shards)
    return out


def read_drawings(package: Path) -> dict[str, Drawing | None]:
    """What each SVG says of itself, by its path without suffix; None where it cannot be told safely."""
    return {_bare_path(name): read_drawing(content) for name, content in read_members(package, r"usr/share/openclipart/svg/[\w./+-]+\.svg")}


def choose_rows(package: Path, drawings: Mapping[str, Drawing | None], left_out: Counter[str]) -> Iterator[Sample]:
    """The PNGs that can be used, in the package's order; `left_out` counts the others by their first fault."""
    for name, image in read_members(package, r"usr/share/openclipart/png/[\w./+-]+\.png"):
        path = _bare_path(name)
        drawing = drawings.get(path)
        fault = find_fault(path, image, drawing)
        if fault:
            left_out[fault] += 1
        else:
            assert drawing is not None
            facts = {"source": f"openclipart {VERSION}", "license": LICENSE, "license_url": LICENSE_URL, "attribution": ATTRIBUTION}
            # A sample's key ends at the first dot of a member's name.
            yield Sample(path.replace(".", "_"), image, CLASS_NAMES.index(path.partition("/")[0]), drawing.title, facts, open_key=True)


def find_fault(path: str, image: bytes, drawing: Drawing | None) -> str:
    """Why an image is left out, or an empty string."""
    if path.startswith(_STARS):
        return "generated_stars"
    if drawing is None:
        return "without_metadata"
    if not drawing.title.strip():
        return "without_title"
    if drawing.license not in _FREE:
        return "without_public_domain"
    return "" if count_pixels(image) <= LARGEST else "too_large"


def count_pixels(image: bytes) -> int:
    """The pixels that a PNG's header states, without decoding it; more than any limit where it is no PNG."""
    if len(image) < 33 or image[:8] != b"\x89PNG\r\n\x1a\n" or image[12:16] != b"IHDR":
        return 1 << 62
    width, height = struct.unpack_from(">II", image, 16)
    return int(width) * int(height)


class _StopReadingError(Exception):
    """All is known, or the file is not to be read on."""


def read_drawing(svg: bytes) -> Drawing | None:
    """The title and licence of the Work in an SVG's RDF, as they stand; None where there is none, or the file declares an entity.

    Nothing outside of the file is read, and since entities may not be declared, none can expand.
    """
    path: list[str] = []
    title: list[str] = []
    found: list[str] = []
    parser = expat.ParserCreate()

    def enter_element(name: str, attributes: dict[str, str]) -> None:
        path.append(name.rpartition(":")[2])
        if path[-2:] == ["Work", "license"] and not found:
            found.append(attributes.get("rdf:resource", ""))

    def leave_element(_: str) -> None:
        if path.pop() == "Work":
            raise _StopReadingError

    def keep_text(text: str) -> None:
        if path[-2:] == ["Work", "title"]:
            title.append(text)

    def refuse_entity(*_: object) -> None:
        path.clear()
        raise _StopReadingError

    parser.StartElementHandler, parser.EndElementHandler = enter_element, leave_element
    parser.CharacterDataHandler, parser.EntityDeclHandler = keep_text, refuse_entity
    try:
        parser.Parse(svg, True)
    except _StopReadingError:
        return Drawing("".join(title), "".join(found)) if path else None
    except (expat.ExpatError, ValueError, LookupError):  # LookupError: an encoding that Python does not know
        return None
    return None


def _bare_path(name: str) -> str:
    return name.removeprefix("usr/share/openclipart/")[4:-4]


_LICENSE_TEXT = f"""Open Clip Art 0.18, packed by corruptkit

Licence: {LICENSE}, {LICENSE_URL}; each drawing's own metadata says so
Attribution: {ATTRIBUTION}
Origin: the Debian packages openclipart-png and openclipart-svg {VERSION}. The images are their PNGs, byte for byte.
Captions: the title in the SVG's metadata, as somebody typed it: uneven, sometimes of a whole collection, sometimes wrong.
Labels: the uppermost folder:
{chr(10).join(f"  {label} {name}" for label, name in enumerate(CLASS_NAMES))}
Left out, by the first that holds: links; what lies in shapes/stars (polygons from a generator); drawings whose metadata cannot be read or
that declare XML entities; those without a title; those that do not state the public domain; images of more than {LARGEST} pixels.
"""
