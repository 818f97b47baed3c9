"""A Dataset: images and conditions as they lie, with the edits of a variant applied while they are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corruptkit.edits import EditMap, compose_edits, edit_index, map_edits
from corruptkit.engines.local import Watch
from corruptkit.errors import DatasetError, Problem
from corruptkit.formats import FORMATS, listed, webdataset
from corruptkit.formats.conditions import RowEdit
from corruptkit.formats.layout import Layout, Row, Shard, Spot
from corruptkit.formats.members import row_members
from corruptkit.index import Index, Readable, ShardStat, find_index, skips
from corruptkit.manifest import Manifest
from corruptkit.names import hub_name
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe, drops_labels
from corruptkit.remote import RemotePath

_BATCH = 256


@dataclass(frozen=True)
class Dataset:
    """Shards in a folder and how to read them; `edits` (composed) makes a variant of them while they are read."""

    path: Path
    name: str
    shards: tuple[Path, ...]
    layout: Layout
    split: str
    classes: int | None = None
    null_label: bool = False
    manifest: Manifest | None = None
    edits: pa.Table | None = None
    root: Path = Path()  # what the names of shards are relative to
    exclude: bool = False  # bad samples are no rows, in place of being refused
    excluded: pa.Table | None = None  # samples that a manifest says are no rows

    def __len__(self) -> int:
        return len(self._source_index)

    def __getstate__(self) -> dict[str, Any]:
        # An index is mapped from its file again, not copied to every worker.
        return {name: value for name, value in vars(self).items() if name not in ("_source_index", "_edited_index", "_edit_map", "_schema")}

    def index(self, *, workers: int = 1, watch: Watch | None = None, cache: bool = True) -> Index:
        """The index of the rows as they read, edits applied; read from its file where the shards have not changed since."""
        if "_source_index" not in vars(self):
            vars(self)["_source_index"] = find_index(self._shards_to_index(), workers, watch, cache=cache)
        source = self._source_index
        if self.edits is None:
            return source
        if "_edited_index" not in vars(self):
            vars(self)["_edited_index"] = edit_index(source, self.edits, null_label=self.null_label)
        edited: Index = vars(self)["_edited_index"]
        return edited

    def _shards_to_index(self) -> Readable:
        how = (self.layout, self.split, self.classes, self.null_label, self.exclude, self.excluded)
        return Readable(self.path, self.root, self.shards, *how)

    @cached_property
    def _source_index(self) -> Index:
        return find_index(self._shards_to_index())

    @cached_property
    def _edit_map(self) -> EditMap | None:
        return None if self.edits is None else map_edits(self.edits, self._source_index)

    def with_recipe(self, recipe: Recipe, *, epoch: int | None = None) -> Dataset:
        """The variant that a recipe makes, in memory; with an epoch, drawn anew for it."""
        plan = make_plan(recipe if epoch is None else recipe.in_epoch(epoch), self.index())
        null_label = self.null_label or drops_labels(recipe.identity())
        # Where a label of K is none, the largest label tells K no longer: it is the source's, as a manifest would state it.
        classes = self.index().meta.classes if null_label else self.classes
        return replace(self.with_edits(plan.edits), manifest=None, null_label=null_label, classes=classes)

    def with_edits(self, edits: pa.Table, where: str = "plan") -> Dataset:
        """The variant that a plan's edits make of this data set as it reads now."""
        composed = compose_edits(edits)
        if self.edits is not None:
            composed = _chain_edits(self.edits, composed)
        map_edits(composed, self._source_index, where)
        return replace(self, edits=composed)

    def shard_rows(self) -> list[tuple[Shard, int, int]]:
        """Each shard with its rows [start, stop) in source order."""
        index = self._source_index
        stops = np.cumsum([shard.rows for shard in index.meta.shards]).tolist()
        return [
            (Shard(file, self.root, self.layout, start, skips(index.excluded, number)), start, stop)
            for number, (file, start, stop) in enumerate(zip(self.shards, [0, *stops], stops, strict=False))
        ]

    def shard_edits(self, start: int, stop: int) -> dict[str, RowEdit]:
        """The edits of rows [start, stop) by key."""
        if self._edit_map is None:
            return {}
        found = self._edit_map.of_rows(start, stop)
        keys = self._source_index.column("key").take(pa.array([row for row, _ in found], pa.int64())).to_pylist()
        return dict(zip(keys, [edit for _, edit in found], strict=True))

    def samples(self) -> Iterator[tuple[Path, str, Row]]:
        """Every sample in source order: its shard, its key, and its stem (`__key__`) and members by suffix."""
        return chain.from_iterable(self.shard_samples(*part) for part in self.shard_rows())

    def shard_samples(self, shard: Shard, start: int, stop: int) -> Iterator[tuple[Path, str, Row]]:
        """The samples of one of `shard_rows`."""
        edits = self.shard_edits(start, stop)
        if self.layout.format == "webdataset":
            for key, sample in webdataset.read_samples(shard, edits):
                yield shard.file, key, sample
            return
        suffix = self.image_suffix()
        for _, row in FORMATS[self.layout.format].read_rows(shard, edits):
            yield shard.file, row["key"], {"__key__": row["key"], **dict(row_members(row, suffix, str(shard.file), self._schema))}

    def image_suffix(self) -> str:
        """The one suffix of all images as members of tars: their own where they share it, else jpg, by which loaders decode anything."""
        found = {suffix for stat in self._source_index.meta.shards for suffix in stat.images if suffix}
        return found.pop() if len(found) == 1 else "jpg"

    def rows(self) -> Iterator[Row]:
        """Every row in source order: key, image, label and caption where there are any, other members or columns as they are."""
        read = FORMATS[self.layout.format].read_rows
        for shard, start, stop in self.shard_rows():
            for _, row in read(shard, self.shard_edits(start, stop)):
                yield row

    def row(self, number: int) -> Row:
        """One row by its number in source order."""
        index, count = self._source_index, len(self)
        if not -count <= number < count:
            raise IndexError(f"row {number} of {count}")
        number %= count
        position, offset, length, shard = (int(column[number]) for column in index.places)
        edit = None if self._edit_map is None else self._edit_map.of_row(number)
        file = self.shards[shard]
        _refuse_changed(file, index.meta.shards[shard])
        part, spot = Shard(file, self.root, self.layout, number), Spot(position, offset, length, number)
        if offset < 0:  # a side-car told of the row, and not where it lies
            spot = listed.find_spot(
                part, skips(index.excluded, shard), index.column("key")[number].as_py(), index.meta.shards[shard].mtime_ns
            )
        return FORMATS[self.layout.format].read_row(part, spot, edit)

    def schema(self) -> pa.Schema:
        """The columns of rows: key; image, label and caption where any row has one; then the others by name."""
        return self._schema

    @cached_property
    def _schema(self) -> pa.Schema:
        index = self._source_index
        kinds: dict[str, pa.DataType] = {"key": pa.large_string()}
        if any(stat.images for stat in index.meta.shards):
            kinds["image"] = pa.large_binary()
        if (index.numbers("label") >= 0).any():
            kinds["label"] = pa.int64()
        if index.column("caption").null_count < len(index):
            kinds["caption"] = pa.large_string()
        others = tuple(sorted({other for shard in index.meta.shards for other in shard.others}))
        for number, shard in enumerate(self.shards):
            part = Shard(shard, self.root, self.layout, 0, skips(index.excluded, number))
            mine = FORMATS[self.layout.format].other_types(part, index.meta.shards[number].others)
            for name, kind in mine.items():
                if pa.types.is_null(kinds.setdefault(name, kind)):
                    kinds[name] = kind
                elif kind != kinds[name] and not pa.types.is_null(kind):
                    found, expected = f"the column '{name}' is of type {kind}", f"{kinds[name]}, as in another shard"
                    raise DatasetError(Problem(str(shard), found, expected, "give all shards one schema"))
        return pa.schema([(name, kinds[name]) for name in (*(n for n in kinds if n not in others), *others)])

    def batches(self, order: Sequence[int] | None = None, *, size: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Rows in batches of at most `size`, in source order or in the `order` of row numbers that is given.

        Of Parquet and Arrow in source order, a batch ends where a piece of the file does, so that nothing is copied to join two.
        """
        if size < 1:
            raise ValueError(f"found a batch size of {size}, expected 1 or more")
        schema = self.schema()
        if order is None and self.layout.format in ("parquet", "arrow"):
            yield from _cut(self._tables(schema), size)
            return
        rows = self.rows() if order is None else map(self.row, order)
        while held := list(islice(rows, size)):
            yield _as_batch(held, schema)

    def _tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        read = FORMATS[self.layout.format].read_tables
        for shard, start, stop in self.shard_rows():
            for _, table in read(shard, self.shard_edits(start, stop), schema):
                yield table

    def to_webdataset(self) -> WebSamples:
        """Samples as webdataset yields them undecoded; the first stage of a `wds.DataPipeline`.

        Each process gets its share of the shards (torch's loader workers, RANK of WORLD_SIZE) by itself: `split_by_worker` and
        `split_by_node` after it would lose samples.
        """
        return WebSamples(self)

    def to_datasets(self) -> Any:
        """A `datasets.IterableDataset` that reads as it goes, a shard a unit of work; needs the extra corruptkit[datasets]."""
        import datasets

        kinds = datasets.Features.from_arrow_schema(self.schema())
        if "image" in kinds:
            kinds["image"] = datasets.Image()
        if "label" in kinds and self.layout.class_names and not self.null_label:
            kinds["label"] = datasets.ClassLabel(names=list(self.layout.class_names))
        numbers = list(range(len(self.shards)))
        return datasets.IterableDataset.from_generator(
            _shard_examples, features=kinds, gen_kwargs={"dataset": self, "shards": numbers}, split=hub_name(self.split)
        )

    def to_torch(self) -> TorchRows:
        """A map-style data set for torch's DataLoader."""
        return TorchRows(self)


@dataclass(frozen=True)
class WebSamples:
    """{"__key__", "__url__", suffix: bytes}; in a process of a loader or of a distributed run, that process's share of the shards."""

    dataset: Dataset

    def __call__(self) -> Iterator[Row]:
        return iter(self)

    def __iter__(self) -> Iterator[Row]:
        first, step = worker_share()
        for part in self.dataset.shard_rows()[first::step]:
            for shard, _, sample in self.dataset.shard_samples(*part):
                yield {"__key__": sample["__key__"], "__url__": str(shard), **sample}


@dataclass(frozen=True)
class TorchRows:
    """Rows by number: `__getitem__` gives one, `__getitems__` those of a batch."""

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Row:
        return self.dataset.row(number)

    def __getitems__(self, numbers: Sequence[int]) -> list[Row]:
        return [self.dataset.row(number) for number in numbers]


def worker_share() -> tuple[int, int]:
    """(number, count) of this process among all that read: torch's loader workers times RANK of WORLD_SIZE."""
    data = sys.modules.get("torch.utils.data")  # loaded already wherever a loader's worker runs
    info = data.get_worker_info() if data is not None else None
    number, count = (info.id, info.num_workers) if info is not None else (0, 1)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    return rank * count + number, world * count


def _refuse_changed(file: Path, known: ShardStat) -> None:
    """An index says where samples lie: in a shard that has changed since, another may lie there."""
    try:
        found = file.stat() if isinstance(file, RemotePath) else os.stat(file)  # noqa: PTH116 - asked for every row: a Path takes twice as long
    except OSError as error:
        raise DatasetError(Problem(str(file), f"cannot be read: {error.strerror}", do="mend the path or its permissions")) from None
    if (found.st_size, found.st_mtime_ns) != (known.bytes, known.mtime_ns):
        what, expected = "its size or time has changed", "the shard as it was indexed"
        raise DatasetError(Problem(str(file), what, expected, "the source has changed: open it again"))


def _as_batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.record_batch(columns, schema=schema)


def _cut(tables: Iterable[pa.Table], size: int) -> Iterator[pa.RecordBatch]:
    """Tables in batches of at most `size` rows, none of which reaches across two tables: that would copy their images."""
    return (batch for table in tables for batch in table.to_batches(max_chunksize=size))


def _shard_examples(dataset: Dataset, shards: list[int]) -> Iterator[Row]:
    """The rows of some shards as `datasets` takes them: with a value for every column."""
    names, parts = dataset.schema().names, dataset.shard_rows()
    for number in shards:
        shard, start, stop = parts[number]
        for path, row in FORMATS[dataset.layout.format].read_rows(shard, dataset.shard_edits(start, stop)):
            image = {"bytes": row["image"], "path": path or None} if "image" in row else None
            yield {name: row.get(name) for name in names} | ({"image": image} if "image" in names else {})


def _chain_edits(before: pa.Table, after: pa.Table) -> pa.Table:
    """The composed edits of two plans, the second made of what the first left."""
    stages = [part.append_column("stage", pa.array([stage] * len(part), pa.int32())) for stage, part in enumerate((before, after))]
    both = pa.concat_tables(stages).sort_by([("key", "ascending"), ("stage", "ascending")])
    return compose_edits(both)
