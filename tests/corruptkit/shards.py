"""Sources for tests: WebDataset shards from lists of rows, written and read back with the standard library alone."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

MEMBERS = ("png", "txt", "cls", "json")
TIME = 1_700_000_000
HIDDEN = ".corruptkit"


class Row(NamedTuple):
    """A sample to write: its key is `folder/stem`; what is None has no member and no field in the .json."""

    key: str
    label: int | None = None
    caption: str | None = None
    image: bytes | None = None  # None: tiny bytes that only this key has


def make_rows(count: int, *, classes: int | None = 10, captions: int | None = 97) -> list[Row]:
    """Rows "000000000", "000000001", ...: labels i mod `classes`, captions "a photo of thing {i mod captions}"; None leaves a field out."""
    return [
        Row(
            f"{i:09d}",
            None if classes is None else i % classes,
            None if captions is None else f"a photo of thing {i % captions}",
        )
        for i in range(count)
    ]


def image_bytes(row: Row) -> bytes:
    """The image of a row: what it names, else bytes that begin like a PNG and differ from row to row in content and length."""
    raw = row.key.encode()
    return b"\x89PNG\r\n\x1a\n" + raw + bytes(len(raw) % 7) if row.image is None else row.image


def row_members(row: Row, members: Sequence[str] = MEMBERS) -> list[tuple[str, bytes]]:
    """Each (suffix, content) of a row, in the order of `members`; an unknown suffix holds its own name and the key."""
    found = []
    for suffix in members:
        if suffix == "txt" and row.caption is not None:
            found.append((suffix, row.caption.encode()))
        elif suffix == "cls" and row.label is not None:
            found.append((suffix, str(row.label).encode()))
        elif suffix == "json":
            fields = {"key": row.key, "caption": row.caption, "label": row.label, "width": 64}
            found.append((suffix, json.dumps({name: value for name, value in fields.items() if value is not None}).encode()))
        elif suffix in ("png", "jpg", "webp"):
            found.append((suffix, image_bytes(row)))
        elif suffix not in ("txt", "cls"):
            found.append((suffix, f"{suffix} of {row.key}".encode()))
    return found


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of (name, content) in the order given, the same bytes each time; `form` is one of tarfile's formats."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(content), TIME, 0o644
            tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(
    folder: Path,
    rows: Sequence[Row],
    *,
    shards: int = 2,
    members: Sequence[str] = MEMBERS,
    name: str = "shard-{:05d}.tar",
    form: int = tarfile.PAX_FORMAT,
) -> Path:
    """Write rows, in the order given, to `shards` tars of equal size (the last ones may be empty), and give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // shards)
    for number in range(shards):
        part = rows[number * size : (number + 1) * size]
        names = ((f"{row.key}.{suffix}", content) for row in part for suffix, content in row_members(row, members))
        write_tar(folder / name.format(number), names, form=form)
    return folder


def read_members(folder: Path) -> list[tuple[str, str, bytes]]:
    """Every (shard, member, content) of a folder's shards in file order, as the standard library reads them."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                file = tar.extractfile(info)
                assert file is not None, f"{info.name} is a regular file"
                found.append((path.name, info.name, file.read()))
    return found


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path, but for indexes, which hold times of the files that they index."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in files}
    return {name: path.read_bytes() for path, name in names.items() if not name.startswith(f"{HIDDEN}/index-")}


def read_variant(folder: Path) -> dict[str, bytes]:
    """A variant's files as the laws compare them: without the circumstance block and manifest.sha256, which covers it."""
    tree = read_tree(folder)
    manifest = json.loads(tree.pop(f"{HIDDEN}/manifest.json"))
    del manifest["circumstance"], tree[f"{HIDDEN}/manifest.sha256"]
    return tree | {"manifest": json.dumps(manifest, sort_keys=True).encode()}
