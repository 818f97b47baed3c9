"""Every byte of a variant against its source: what the source and the plan do not explain is refused with its place."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from corruptkit.dataset import Dataset
from corruptkit.digest import file_sha256
from corruptkit.edits import compose_edits, map_edits
from corruptkit.errors import IntegrityError, Problem
from corruptkit.formats.conditions import RowEdit
from corruptkit.formats.sidecar import carried_files, name_edits, rewrite_pair, sidecar_of
from corruptkit.formats.tar import BLOCK, make_header, pad_block, read_range
from corruptkit.formats.webdataset import Patch, member_at, patch_shard
from corruptkit.manifest import FOLDER
from corruptkit.target import PARTIAL
from corruptkit.tasks import fill_tasks, folder_beside, join_edits, list_tasks, write_shard

_PIECE = 1 << 22


def compare_variant(variant: Dataset, source: Dataset, edits: pa.Table) -> None:
    """Compare shards, side-cars, originals and carried files. Raises IntegrityError at the first difference."""
    if (variant.layout.format, source.layout.format) == ("webdataset", "webdataset"):
        _compare_tars(variant, source, edits)
    else:
        _compare_again(variant, source, edits)
    for file in carried_files(folder_beside(source), variant.layout.format != source.layout.format):
        mine = variant.path / file.name
        if not mine.is_file() or file.read_bytes() != mine.read_bytes():
            raise _differs(mine, "")


def _compare_tars(variant: Dataset, source: Dataset, edits: pa.Table) -> None:
    """Tars whose bytes are copies, with the members that the plan replaces."""
    names = [[shard.name for shard in dataset.shards] for dataset in (variant, source)]
    if names[0] != names[1]:
        found, expected = f"{len(names[0])} shards", f"the source's {len(names[1])} shards, by name"
        raise IntegrityError(Problem(str(variant.path), found, expected, "name the source it was made of"))
    index = source.index()
    plan, keys = map_edits(compose_edits(edits), index), index.column("key")
    kept: list[bytes] = []  # originals of side-cars, which follow those of all members
    with ExitStack() as stack:
        originals = stack.enter_context((variant.path / FOLDER / "originals.tar").open("rb"))
        for mine, (shard, start, stop) in zip(variant.shards, source.shard_rows(), strict=True):
            below = source.shard_edits(start, stop)
            own = {keys[row].as_py(): edit for row, edit in plan.of_rows(start, stop)}
            stems: dict[str, str] = {}
            patches = patch_shard(shard, own, below)
            _compare_shard(mine, shard.file, _check_originals(patches, originals, stems))
            kept += _compare_sidecar(variant, shard.file, stems, below, join_edits(below, own))
        _expect_next(originals, b"".join(kept) + bytes(2 * BLOCK), "side-cars and the end marker")
        if originals.read(1):
            raise _differs(Path(originals.name), "bytes after the end marker")


def _compare_again(variant: Dataset, source: Dataset, edits: pa.Table) -> None:
    """Shards that are no copies are made again and compared; those of another version of pyarrow, by what they hold."""
    format = variant.layout.format
    assert format != "imagefolder", "nobody writes folders of images"
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / FOLDER / PARTIAL).mkdir(parents=True)
        tasks = list_tasks(source, scratch, format, "again", null_label=variant.null_label)
        if [task.name for task in tasks] != [shard.relative_to(variant.root).as_posix() for shard in variant.shards]:
            found, expected = f"{len(variant.shards)} shards", f"the {len(tasks)} that its source gives, by name"
            raise IntegrityError(Problem(str(variant.path), found, expected, "name the source it was made of"))
        for task, mine in zip(fill_tasks(source, compose_edits(edits), tasks), variant.shards, strict=True):
            write_shard(task)
            again = scratch / task.name
            if file_sha256(again) != file_sha256(mine) and (format == "webdataset" or not _same_content(again, mine, format)):
                raise _differs(mine, "")
            again.unlink()


def _same_content(again: Path, mine: Path, format: str) -> bool:
    with again.open("rb") as first, mine.open("rb") as second:
        if format == "parquet":
            tables = [pq.ParquetFile(file, pre_buffer=False).read(use_threads=False) for file in (first, second)]
        else:
            tables = [pa.ipc.open_stream(file).read_all() for file in (first, second)]
    return bool(tables[0].equals(tables[1]))


def _check_originals(patches: Iterator[Patch], originals: BinaryIO, stems: dict[str, str]) -> Iterator[Patch]:
    """Pass patches on, once the originals hold what each replaces; note the stem of each key."""
    for patch in patches:
        _expect_next(originals, patch.original or b"", patch.name)
        stems[patch.key] = patch.stem
        yield patch


def _expect_next(file: BinaryIO, content: bytes, name: str) -> None:
    if file.read(len(content)) != content:
        raise _differs(Path(file.name), name)


def _compare_shard(mine: Path, source: Path, patches: Iterator[Patch]) -> None:
    """A shard against its source with the patches in place."""
    descriptors = [os.open(file, os.O_RDONLY) for file in (mine, source)]
    try:
        place = shift = 0  # in the source; and how far the variant is ahead of it
        size = os.fstat(descriptors[1]).st_size
        for patch in patches:
            _compare_ranges(descriptors, (place, patch.start), shift, mine, source)
            if read_range(descriptors[0], patch.start + shift, len(patch.content)) != patch.content:
                raise _differs(mine, patch.name)
            place, shift = patch.end, shift + len(patch.content) - (patch.end - patch.start)
        _compare_ranges(descriptors, (place, size), shift, mine, source)
        if os.fstat(descriptors[0]).st_size != size + shift:
            raise _differs(mine, "the end of the archive")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _compare_ranges(descriptors: list[int], span: tuple[int, int], shift: int, mine: Path, source: Path) -> None:
    for at in range(*span, _PIECE):
        length = min(_PIECE, span[1] - at)
        ours, theirs = read_range(descriptors[0], at + shift, length), read_range(descriptors[1], at, length)
        if ours != theirs:
            differs = next((n for n, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), min(len(ours), len(theirs)))
            raise _differs(mine, member_at(source, at + differs))


def _compare_sidecar(
    variant: Dataset, shard: Path, stems: dict[str, str], below: dict[str, RowEdit], both: dict[str, RowEdit]
) -> Iterator[bytes]:
    """A shard's side-car; yields its original as it must stand among the originals, where it was rewritten."""
    sidecar = sidecar_of(shard)
    if sidecar is None:
        return
    named = [name_edits(sidecar, stems, edits) for edits in (below, both)]
    original, expected = rewrite_pair(sidecar, named[0], named[1], variant.layout.columns)
    mine = variant.path / sidecar.name
    content = mine.read_bytes() if mine.is_file() else b""
    # Another version of pyarrow may write the same table in other bytes.
    if content != expected and not (original != expected and _same_table(content, expected)):
        raise _differs(mine, "")
    if original != expected:
        yield make_header(sidecar.name, len(original)) + pad_block(original)


def _same_table(a: bytes, b: bytes) -> bool:
    try:
        return bool(pq.read_table(io.BytesIO(a)).equals(pq.read_table(io.BytesIO(b)), check_metadata=True))
    except pa.ArrowException:
        return False


def _differs(file: Path, name: str) -> IntegrityError:
    return IntegrityError(Problem(str(file), "bytes that neither the source nor the plan explains", do="do not use it", key=name))
