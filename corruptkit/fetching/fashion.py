"""Fashion-MNIST, from a Debian package or from its four files: 60,000 + 10,000 grey images of 28 x 28 pixels in ten classes."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from corruptkit.errors import DatasetError, IntegrityError, Problem
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

PACKAGE = Archive(
    "apt",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
# The SHA-256 of each file's content, whoever compressed it.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SPLITS = {"train": ("train", 60000), "test": ("t10k", 10000)}  # the word of their files, their rows
CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
LICENSE = "MIT"
ATTRIBUTION = "Fashion-MNIST, Copyright (c) 2017 Zalando SE, https://github.com/zalandoresearch/fashion-mnist. License: MIT"
_SIDE = 28
_LARGEST = 1 << 26  # bytes that are read of a file; the longest has 47 million


def fetch_fashion(out: Path, *, given: Path | None = None, progress: bool = False) -> Path:
    """Write Fashion-MNIST's two splits as WebDataset shards of PNGs under `out`, and return `out`.

    `given` is a folder that holds the Debian package, or the four idx files, compressed with gzip or not. The bytes written depend
    on the data alone.
    """
    if not is_complete(out, "fashion-mnist"):
        loose = given is not None and any((given / name).exists() or (given / f"{name}.gz").exists() for name in FILES)
        if not loose:
            check_tools("fashion-mnist", [PACKAGE], given)
        with hold_folder(out, "fashion-mnist") as fetching:
            if given is not None and loose:
                files = {name: _read_loose(given, name) for name in FILES}
            else:
                package = obtain_archive("fashion-mnist", PACKAGE, archive_folder(fetching), given)
                files = _read_package(package)
            write_license(out, LICENSE_TEXT)
            with show_progress("fashion-mnist", sum(rows for _, rows in SPLITS.values()), "images", progress=progress) as bar:
                shards = [shard for split in SPLITS for shard in write_shards(out, f"fashion-mnist-{split}", draw_rows(split, files), bar)]
            write_record(out, Fetched("fashion-mnist", None, {}, {}), shards)
    return out


def draw_rows(split: str, files: Mapping[str, bytes]) -> Iterator[Sample]:
    """The rows of a split in the order of its files; the key is the split and the row's place in it."""
    word, count = SPLITS[split]
    images = files[f"{word}-images-idx3-ubyte"][16:]
    labels = files[f"{word}-labels-idx1-ubyte"][8:]
    area = _SIDE * _SIDE
    for row in range(count):
        yield Sample(f"{split}-{row:05d}", draw_png(images[row * area : (row + 1) * area]), labels[row])


def draw_png(pixels: bytes) -> bytes:
    """28 x 28 grey values as a PNG whose pixels are stored: versions of zlib compress the same pixels to different bytes."""
    lines = b"".join(b"\0" + pixels[start : start + _SIDE] for start in range(0, len(pixels), _SIDE))
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines + struct.pack(">I", zlib.adler32(lines))
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _pack_chunk(b"IHDR", header) + _pack_chunk(b"IDAT", stored) + _pack_chunk(b"IEND", b"")


def _pack_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _read_package(package: Path) -> dict[str, bytes]:
    folder = "usr/share/datasets/fashion-mnist/"
    found = {name.removeprefix(folder): content for name, content in read_members(package, f"{folder}[a-z0-9-]+[.]gz")}
    return {name: _read_checked(io.BytesIO(found[f"{name}.gz"]), name, f"{package}, {name}.gz", packed=True) for name in FILES}


def _read_loose(given: Path, name: str) -> bytes:
    """One of the four files from a folder, with the suffix .gz or without."""
    packed = (given / f"{name}.gz").is_file()
    path = given / (f"{name}.gz" if packed else name)
    try:
        with path.open("rb") as file:
            return _read_checked(file, name, str(path), packed=packed)
    except FileNotFoundError:
        do = "name the folder that holds them, or leave --from out"
        raise DatasetError(Problem(str(path), "no such file", "all four files of Fashion-MNIST", do)) from None


def _read_checked(file: IO[bytes], name: str, where: str, *, packed: bool) -> bytes:
    """A file's content, once it is what was published; no more of it is read than that."""
    try:
        content = gzip.GzipFile(fileobj=file).read(_LARGEST) if packed else file.read(_LARGEST)
    except (OSError, EOFError, zlib.error):
        content = b""
    found = hashlib.sha256(content).hexdigest()
    if found != FILES[name]:
        raise IntegrityError(Problem(where, f"content of SHA-256 {found[:16]}...", f"{FILES[name][:16]}...", "do not use it: get it anew"))
    return content


LICENSE_TEXT = f"""Fashion-MNIST, written as PNGs by corruptkit

{ATTRIBUTION}
Changes: each image of 28 x 28 grey pixels became a PNG of the same pixels; nothing was altered.
Labels:
{chr(10).join(f"  {label} {name}" for label, name in enumerate(CLASS_NAMES))}

The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
