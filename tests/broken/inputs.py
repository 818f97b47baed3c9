"""What the broken inputs are made with: tars from raw members, and what a command must say of them or read from them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from corruptkit.cli import main

BLOCK = 512
END = bytes(2 * BLOCK)
JPG = b"\xff\xd8\xff\xe0 an image"


class Refused(NamedTuple):
    """The words of a command that must be refused, and what its one line must hold; `file` and `key` exactly, the others as a part."""

    words: str
    file: str
    found: str
    do: str
    key: str = ""
    after_plan: Callable[[], object] | None = None  # what happens between planning and writing
    mortal: bool = False  # the superuser may read everything: the command runs in a process without that power


class ReadRight(NamedTuple):
    """What follows `corruptkit make` for a source that is odd but sound, and every row that must be read from it."""

    words: str
    rows: list[dict[str, Any]]
    forms: tuple[str, ...] = ("webdataset", "parquet", "arrow", "overlay")  # that can hold it


def member(name: str, content: bytes = b"", *, form: int = tarfile.USTAR_FORMAT, pax: dict[str, str] | None = None, **fields: Any) -> bytes:
    """A member of a tar: headers, content, padding; `fields` are those of TarInfo."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.pax_headers = len(content), 1_700_000_000, pax or {}
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(form, "utf-8", "surrogateescape") + pad(content)


def pad(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def forge(block: bytes, at: int, field: bytes) -> bytes:
    """A header with other bytes at a place, under a checksum that fits."""
    block = block[:at] + field + block[at + len(field) :]
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:BLOCK])
    return block[:148] + b"%06o\0 " % total + block[156:]


def sample(key: str, **members: bytes) -> bytes:
    """An image and further members under a key, by suffix and in the order given."""
    return b"".join(member(f"{key}.{suffix}", content) for suffix, content in ({"jpg": JPG} | members).items())


def pack(path: Path, *pieces: bytes, end: bytes = END) -> Path:
    """A file of these pieces, such as members, and the end marker of a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(pieces) + end)
    return path


def pack_good(path: Path, *, classes: int = 3) -> Path:
    """Nothing wrong: four samples with a label and a caption each."""
    return pack(path, *(sample(f"{path.stem}{i}", txt=f"caption {i} of {path.stem}".encode(), cls=b"%d" % (i % classes)) for i in range(4)))


def table(path: Path, **columns: Any) -> Path:
    """A shard of these columns: Parquet or an Arrow stream, as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(content, path)
    else:
        with pa.ipc.new_stream(path, content.schema) as stream:
            stream.write_table(content)
    return path


def texts(*values: bytes) -> pa.Array:
    """A column of text that nobody has checked to be UTF-8."""
    return pa.array(values, pa.binary()).view(pa.string())


def images(folder: Path, *paths: str) -> None:
    """A file for each path, with the image that `sample` packs."""
    for path in paths:
        pack(folder / path, JPG, end=b"")


def row(key: str, **fields: Any) -> dict[str, Any]:
    """A row as it must be read, with the image that `sample` packs."""
    return {"key": key, "image": JPG} | fields


def run(words: str) -> None:
    """A command that must do well, for inputs that are variants."""
    assert main(words.split()) == 0, words


def reseal(variant: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as somebody would who publishes what he likes: its checksum fits again."""
    path = variant / ".corruptkit" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("manifest.sha256").write_text(f"{digest}  manifest.json\n", encoding="utf-8")
