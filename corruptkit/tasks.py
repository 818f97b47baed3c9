"""One shard's task: what it needs, what it writes, and the record by which a later start knows that it is finished."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from corruptkit.conversion import describe_features, rows_schema, stored_schema, stored_tables
from corruptkit.corruptions.rows import Ints
from corruptkit.dataset import Dataset
from corruptkit.digest import file_sha256
from corruptkit.edits import EditMap, map_edits
from corruptkit.errors import DatasetError, Problem
from corruptkit.files import Span, copy_patched, explain_disk, open_atomic, write_atomic
from corruptkit.formats import FORMATS, arrow, imagefolder, parquet
from corruptkit.formats.arrow import describe_state
from corruptkit.formats.conditions import RowEdit, chain_edits, still_tells
from corruptkit.formats.editing import count_leftovers
from corruptkit.formats.layout import ROW_FIELDS, KeyEncoding, Row, Shard, Spot, pack_rows
from corruptkit.formats.members import write_rows
from corruptkit.formats.sidecar import name_edits, rewrite_pair, sidecar_leftovers, sidecar_of
from corruptkit.formats.table import class_names
from corruptkit.formats.webdataset import patch_shard
from corruptkit.index import Index, ShardStat
from corruptkit.manifest import FOLDER, FileRecord, ShardRecord
from corruptkit.remote import RemoteFile, RemotePath
from corruptkit.target import PARTIAL

Format = Literal["webdataset", "parquet", "arrow", "overlay"]
_IMAGES_A_SHARD = 10_000  # of a folder of images, which has no shards of its own


class ShardDone(BaseModel):
    """What a shard's task leaves behind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant_id: str
    source: tuple[ShardStat, ...]
    shard: ShardRecord
    sidecar: FileRecord | None = None
    sidecar_rewritten: bool = False
    leftovers: int = 0  # rows that still tell an old caption


@dataclass(frozen=True)
class ShardTask:
    """All that writing one shard needs: the shard, its slice of the plan, and where to."""

    variant_id: str
    source: Shard
    stats: tuple[ShardStat, ...]  # of the shards that are read
    size: int  # bytes to expect
    rows: int
    out: Path
    name: str
    format: Format
    edits: dict[str, RowEdit] = field(default_factory=dict)
    below: dict[str, RowEdit] = field(default_factory=dict)  # of an overlay as source
    schema: pa.Schema | None = None  # of rows, where they are written in another format
    image: str = ""  # the suffix of images in tars
    class_names: tuple[str, ...] = ()
    spots: tuple[tuple[Shard, Spot], ...] = ()  # of a folder of images: its rows; of tars that are patched: those that have edits


def usual_format(dataset: Dataset) -> Format:
    """The format of a variant unless one is stated: the source's own; an overlay of an overlay, tars of a folder of images."""
    if dataset.edits is not None or isinstance(dataset.path, RemotePath):
        return "overlay"
    return "webdataset" if dataset.layout.format == "imagefolder" else dataset.layout.format


def output_encoding(dataset: Dataset, format: Format) -> KeyEncoding:
    """How keys stand in the shards of a variant."""
    if format in ("overlay", dataset.layout.format):
        return dataset.layout.key_encoding
    return "percent" if format == "webdataset" else "column"


def flat_name(name: str) -> str:
    """A shard's name as that of a file in one folder."""
    return name.replace("/", "%2F")


def folder_beside(dataset: Dataset) -> Path:
    """Where licences and the like lie: beside the tars, and at the top of everything else."""
    if dataset.layout.format == "webdataset" or not dataset.root.is_dir():
        return dataset.shards[0].parent if dataset.shards else dataset.path
    return dataset.root


def list_tasks(dataset: Dataset, target: Path, format: Format, variant_id: str, *, null_label: bool) -> list[ShardTask]:
    """The tasks that write a variant, without its edits: one a shard of the source; 10,000 images each of a folder of images.

    `null_label` says whether the variant declares one: `datasets` reads no class above those that have names.
    """
    if format == "overlay":
        return []
    converts = format != dataset.layout.format
    if null_label and not converts:
        _refuse_named(dataset)
    more: dict[str, Any] = {"class_names": () if null_label else dataset.layout.class_names}
    if converts:
        more |= {"schema": rows_schema(dataset, format), "image": dataset.image_suffix()}
    if dataset.layout.format == "imagefolder":
        return _list_folder(dataset, target, format, variant_id, more)
    parts, stats = dataset.shard_rows(), dataset.index().meta.shards
    names = [_output_name(format, dataset.split, number, len(parts)) if converts else stat.name for number, stat in enumerate(stats)]
    return [
        ShardTask(variant_id, shard, (stat,), stat.bytes, stat.rows, target, name, format, **more)
        for (shard, _, _), stat, name in zip(parts, stats, names, strict=True)
    ]


def fill_tasks(dataset: Dataset, composed: pa.Table, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
    """The tasks of `list_tasks` with their edits, one by one: those of all shards at once would take a kilobyte an edit."""
    if not tasks:
        return
    index = dataset.index()
    edits, keys = map_edits(composed, index), index.column("key")
    if dataset.layout.format == "imagefolder":
        yield from _fill_folder(dataset, edits, tasks)
        return
    for task, (shard, start, stop) in zip(tasks, dataset.shard_rows(), strict=True):
        mine = {keys[row].as_py(): edit for row, edit in edits.of_rows(start, stop)}
        below = dataset.shard_edits(start, stop)
        patches = task.format == "webdataset" == dataset.layout.format
        spots = find_spots(index, shard, start, stop, mine.keys() | below.keys()) if patches else ()
        yield replace(task, edits=mine, below=below, spots=spots)


def _refuse_named(dataset: Dataset) -> None:
    """Tables whose own description names the classes would keep it."""
    reader = {"parquet": parquet, "arrow": arrow}.get(dataset.layout.format)
    if reader is None or not dataset.shards:
        return
    shard = dataset.shards[0]
    if class_names(reader.read_schema(shard), dataset.layout.columns.label):
        found, do = "classes with names, and none for the null label", "write another format or an overlay"
        raise DatasetError(Problem(str(shard), found, f"a {dataset.layout.format} shard that `datasets` reads", do))


def find_spots(index: Index, shard: Shard, start: int, stop: int, keys: Collection[str]) -> tuple[tuple[Shard, Spot], ...]:
    """Where those of a shard's rows [start, stop) lie that have one of the keys."""
    wanted = pc.is_in(index.column("key")[start:stop], pa.array(sorted(keys), pa.large_string()))
    rows = np.flatnonzero(np.asarray(wanted)) + start
    if (index.numbers("offset")[rows] < 0).any():
        return ()  # rows of a side-car: the shard itself says where they lie
    places = (index.numbers(name)[rows].tolist() for name in ("position", "offset", "length"))
    return tuple((shard, Spot(*place)) for place in zip(*places, rows.tolist(), strict=True))


def _list_folder(dataset: Dataset, target: Path, format: Format, variant_id: str, more: dict[str, Any]) -> list[ShardTask]:
    index = dataset.index()
    parts, lengths = _split_folder(index), index.numbers("length")
    source = Shard(dataset.root, dataset.root, dataset.layout)
    names = [_output_name(format, dataset.split, number, len(parts)) for number in range(len(parts))]
    sizes = [int(lengths[rows].sum()) + 4096 for rows in parts]
    return [
        ShardTask(variant_id, source, index.meta.shards, size, len(rows), target, name, format, **more)
        for rows, size, name in zip(parts, sizes, names, strict=True)
    ]


def _split_folder(index: Index) -> list[Ints]:
    """The rows of each task. Folders lie sorted by class: in the order of hashes, a loader that shuffles a little sees all classes."""
    order = np.lexsort((np.arange(len(index)), index.numbers("hash")))
    return [order[start : start + _IMAGES_A_SHARD] for start in range(0, max(len(order), 1), _IMAGES_A_SHARD)]


def _fill_folder(dataset: Dataset, edits: EditMap, tasks: Sequence[ShardTask]) -> Iterator[ShardTask]:
    index = dataset.index()
    keys, below = index.column("key"), dataset.shard_edits(0, len(index))
    columns = [index.numbers(name) for name in ("shard", "position", "offset", "length")]
    for task, part in zip(tasks, _split_folder(index), strict=True):
        spots, rows = [], part.tolist()
        for row in rows:
            shard, position, offset, length = (int(column[row]) for column in columns)
            spots.append((Shard(dataset.shards[shard], dataset.root, dataset.layout, row), Spot(position, offset, length, row)))
        mine = {keys[row].as_py(): edit for row in rows if (edit := edits.of_row(row)) is not None}
        under = {key: below[key] for row in rows if (key := keys[row].as_py()) in below}
        yield replace(task, source=spots[0][0] if spots else task.source, edits=mine, below=under, spots=tuple(spots))


def _output_name(format: Format, split: str, number: int, count: int) -> str:
    """A shard's name where the source has none of the format: as the Hub names Parquet, and as save_to_disk names Arrow."""
    if format == "parquet":
        return f"data/{split}-{number:05d}-of-{count:05d}.parquet"
    return f"data-{number:05d}-of-{count:05d}.arrow" if format == "arrow" else f"{split}-{number:05d}.tar"


def write_shard(task: ShardTask) -> ShardDone:
    """Write a shard, and what belongs to it, then the record that says so; a shard that has its record is left alone."""
    done = read_done(task)
    if done is not None:
        return done
    with explain_disk(task.out):
        return _write_files(task)


def _write_files(task: ShardTask) -> ShardDone:
    partial = task.out / FOLDER / PARTIAL
    if task.format != task.source.layout.format:
        done = _write_content(task, lambda out: _convert_shard(task, out))
    elif task.format == "webdataset":
        done = _patch_tar(task)
    else:
        rewrite = parquet.rewrite_shard if task.format == "parquet" else arrow.rewrite_shard
        done = _write_content(task, lambda out: rewrite(task.source, join_edits(task.below, task.edits), out))
    write_atomic(partial / f"{flat_name(task.name)}.json", done.model_dump_json().encode(), partial)
    return done


def _write_content(task: ShardTask, write: Callable[[BinaryIO], int]) -> ShardDone:
    """Write a shard by a function that says how many rows still tell an old caption."""
    path, partial = task.out / task.name, task.out / FOLDER / PARTIAL
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path, partial) as out:
        leftovers = write(out)
        for stat in task.stats:
            refuse_changed(task.source.root / stat.name, stat)
    record = describe_file(task.out, task.name)
    edits = sum(map(len, task.edits.values()))
    shard = ShardRecord(name=task.name, rows=task.rows, bytes=record.bytes, sha256=record.sha256, edits=edits)
    return ShardDone(variant_id=task.variant_id, source=task.stats, shard=shard, leftovers=leftovers)


def join_edits(below: Mapping[str, RowEdit], own: Mapping[str, RowEdit]) -> dict[str, RowEdit]:
    """Two layers of edits as one."""
    return {**below, **{key: chain_edits(below.get(key, {}), edit) for key, edit in own.items()}}


def _convert_shard(task: ShardTask, out: BinaryIO) -> int:
    """Write the rows of a shard in another format; how many of them still tell an old caption."""
    assert task.schema is not None, "a task that converts knows its rows"
    edits, shard, seen = join_edits(task.below, task.edits), task.source, _Count()
    rows = _image_rows(task, edits) if shard.layout.format == "imagefolder" else None
    read = FORMATS[shard.layout.format]
    if task.format == "webdataset":
        found = read.read_rows(shard, edits) if rows is None else rows
        write_rows(_watch_rows(found, edits, seen), task.image, str(shard.file), task.schema, out)
        return seen.leftovers
    tables = read.read_tables(shard, edits, task.schema) if rows is None else pack_rows(rows, task.schema)
    schema = stored_schema(task.schema, task.class_names)
    stored = stored_tables(_watch_tables(tables, edits, seen), schema)
    (parquet if task.format == "parquet" else arrow).write_tables(stored, schema, out)
    return seen.leftovers


def _watch_rows(rows: Iterable[tuple[str, Row]], edits: Mapping[str, RowEdit], seen: _Count) -> Iterator[Row]:
    for _, row in rows:
        edit = edits.get(row["key"])
        seen.leftovers += edit is not None and still_tells([row[name] for name in row if name not in ROW_FIELDS], edit)
        yield row


def _watch_tables(
    tables: Iterable[tuple[pa.Array, pa.Table]], edits: Mapping[str, RowEdit], seen: _Count
) -> Iterator[tuple[pa.Array, pa.Table]]:
    keys = pa.array(list(edits), pa.large_string())
    for names, table in tables:
        rows = np.flatnonzero(np.asarray(pc.is_in(table["key"], value_set=keys)))
        own = {row: edits[table["key"][row].as_py()] for row in rows.tolist()}
        seen.leftovers += count_leftovers(table.select([name for name in table.column_names if name not in ROW_FIELDS]), own)
        yield names, table


def _image_rows(task: ShardTask, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
    left = set(edits)
    for shard, spot in task.spots:
        key = imagefolder.key_at(shard, spot)
        left.discard(key)
        yield imagefolder.read_spot(shard, spot, edits.get(key))
    if left:
        raise DatasetError(Problem(str(task.source.root), f"no image of the key '{min(left)}'", do="the source has changed: plan again"))


def describe_folder(dataset: Dataset, names: Sequence[str], mark: str, *, null_label: bool) -> dict[str, bytes]:
    """What stands beside Arrow shards for `load_from_disk`."""
    if dataset.layout.format == "arrow":
        path = dataset.root / "dataset_info.json"
        info = path.read_bytes() if path.is_file() else b"{}"
    else:
        features = describe_features(stored_schema(dataset.schema(), ()), () if null_label else dataset.layout.class_names)
        info = json.dumps({"features": features} if features else {}, indent=2).encode()
    return {"dataset_info.json": info, "state.json": describe_state(names, dataset.split, mark)}


@dataclass
class _Count:
    """How many rows of a shard still tell an old caption."""

    leftovers: int = 0


@dataclass
class _Seen:
    """What a walk through a tar notes by the way: the stem of each edited key, and the keys whose sample still tells an old caption."""

    stems: dict[str, str] = field(default_factory=dict)
    telling: set[str] = field(default_factory=set)


def _patch_tar(task: ShardTask) -> ShardDone:
    """Copy a tar with the members that edits concern replaced; keep what stood there."""
    partial, flat = task.out / FOLDER / PARTIAL, flat_name(task.name)
    seen = _Seen()
    digest = hashlib.sha256()
    with (
        task.source.file.open("rb", buffering=0) as source,
        open_atomic(partial / f"{flat}.originals", partial) as originals,
        open_atomic(task.out / task.name, partial) as out,
    ):
        copy_patched(source, out, _keep_originals(task, originals, seen), digest)
        refuse_changed(task.source.file, task.stats[0], None if isinstance(source, RemoteFile) else os.fstat(source.fileno()))
        size = out.tell()
    edits = sum(map(len, task.edits.values()))
    shard = ShardRecord(name=task.name, rows=task.rows, bytes=size, sha256=digest.hexdigest(), edits=edits)
    sidecar, rewritten = _write_sidecar(task, partial, seen)
    return ShardDone(
        variant_id=task.variant_id,
        source=task.stats,
        shard=shard,
        sidecar=sidecar,
        sidecar_rewritten=rewritten,
        leftovers=len(seen.telling),
    )


def refuse_changed(file: Path, known: ShardStat, found: os.stat_result | None = None) -> None:
    """Refuse a shard that is not as it was indexed."""
    try:
        found = file.stat() if found is None else found
    except OSError as error:
        raise DatasetError(Problem(str(file), f"cannot be read: {error.strerror}", do="mend the path or its permissions")) from None
    if (found.st_size, found.st_mtime_ns) != (known.bytes, known.mtime_ns):
        what, expected = "its size or time has changed", "the shard as it was indexed"
        raise DatasetError(Problem(str(file), what, expected, "the source has changed: start again"))


def _keep_originals(task: ShardTask, originals: BinaryIO, seen: _Seen) -> Iterator[Span]:
    """The spans that a shard's edits replace; what stood there goes to the originals."""
    spots = [spot for _, spot in task.spots] if task.spots else None
    for patch in patch_shard(task.source, task.edits, task.below, spots):
        originals.write(patch.original or b"")
        seen.stems[patch.key] = patch.stem
        seen.telling |= {patch.key} if patch.tells else set()
        yield patch.start, patch.end, patch.content


def read_done(task: ShardTask) -> ShardDone | None:
    """The record of a finished shard, unless it is of another variant or source, or its files have gone."""
    try:
        done = ShardDone.model_validate_json((task.out / FOLDER / PARTIAL / f"{flat_name(task.name)}.json").read_bytes())
        sizes = [(task.out / task.name).stat().st_size == done.shard.bytes]
        sizes += [(task.out / done.sidecar.path).stat().st_size == done.sidecar.bytes] if done.sidecar else []
    except (OSError, ValidationError):
        return None
    return done if all(sizes) and (done.variant_id, done.source) == (task.variant_id, task.stats) else None


def _write_sidecar(task: ShardTask, partial: Path, seen: _Seen) -> tuple[FileRecord | None, bool]:
    """Write the shard's side-car, if it has one, and keep the source's where it is rewritten."""
    source = sidecar_of(task.source.file)
    if source is None:
        return None, False
    columns = task.source.layout.columns
    below, both = (name_edits(source, seen.stems, edits) for edits in (task.below, join_edits(task.below, task.edits)))
    original, content = rewrite_pair(source, below, both, columns)
    if both:
        keys = {stem.rpartition("/")[2]: key for key, stem in seen.stems.items()}
        seen.telling |= {keys[name] for name in sidecar_leftovers(content, both, columns)}
    write_atomic(partial / f"{source.name}.original", original, partial)
    write_atomic(task.out / source.name, content, partial)
    return describe_file(task.out, source.name), content != original


def describe_file(folder: Path, name: str) -> FileRecord:
    """A file of a variant as its manifest lists it."""
    path = folder / name
    return FileRecord(path=name, bytes=path.stat().st_size, sha256=file_sha256(path))
