"""A Dataset: images and conditions as they lie, with the edits of a variant applied while they are read."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corruptkit.edits import EditMap, compose_edits, edit_index, map_edits
from corruptkit.engines.local import Watch
from corruptkit.errors import CatalogError, DatasetError, IntegrityError, Problem, strip_secrets
from corruptkit.files import local_path
from corruptkit.formats.conditions import Columns, RowEdit
from corruptkit.formats.keys import check_rule
from corruptkit.formats.overlay import read_edits
from corruptkit.formats.shards import list_shards, split_of
from corruptkit.formats.webdataset import Layout, read_sample, read_samples, sample_row
from corruptkit.index import Index, Readable, ShardStat, find_index
from corruptkit.manifest import FOLDER, Manifest, manifest_path, read_manifest
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe

_NESTED = 16  # overlays over overlays, at most
_BATCH = 256
Row = dict[str, Any]


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

    def __len__(self) -> int:
        return len(self._source_index)

    def __getstate__(self) -> dict[str, Any]:
        # An index is mapped from its file again, not copied to every worker.
        return {name: value for name, value in vars(self).items() if name not in ("_source_index", "_edited_index", "_edit_map")}

    def index(self, *, workers: int = 1, watch: Watch | None = None, cache: bool = True) -> Index:
        """The index of the rows as they read, edits applied; read from its file where the shards have not changed since."""
        if "_source_index" not in vars(self):
            vars(self)["_source_index"] = find_index(self._shards_to_index(), workers, watch, cache=cache)
        source = self._source_index
        if self.edits is None:
            return source
        if "_edited_index" not in vars(self):
            vars(self)["_edited_index"] = edit_index(source, self.edits)
        edited: Index = vars(self)["_edited_index"]
        return edited

    def _shards_to_index(self) -> Readable:
        return Readable(self.path, self.shards, self.layout, self.split, self.classes, self.null_label)

    @cached_property
    def _source_index(self) -> Index:
        return find_index(self._shards_to_index())

    @cached_property
    def _edit_map(self) -> EditMap | None:
        return None if self.edits is None else map_edits(self.edits, self._source_index)

    def with_recipe(self, recipe: Recipe, *, epoch: int | None = None) -> Dataset:
        """The variant that a recipe makes, in memory; with an epoch, drawn anew for it."""
        plan = make_plan(recipe if epoch is None else recipe.in_epoch(epoch), self.index())
        return replace(self.with_edits(plan.edits), manifest=None)

    def with_edits(self, edits: pa.Table, where: str = "plan") -> Dataset:
        """The variant that a plan's edits make of this data set as it reads now."""
        composed = compose_edits(edits)
        if self.edits is not None:
            composed = _chain_edits(self.edits, composed)
        map_edits(composed, self._source_index, where)
        return replace(self, edits=composed)

    def shard_rows(self) -> list[tuple[Path, int, int]]:
        """Each shard with its rows [start, stop) in source order."""
        stops = np.cumsum([shard.rows for shard in self._source_index.meta.shards]).tolist()
        return list(zip(self.shards, [0, *stops], stops, strict=False))

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

    def shard_samples(self, shard: Path, start: int, stop: int) -> Iterator[tuple[Path, str, Row]]:
        """The samples of one of `shard_rows`."""
        for key, sample in read_samples(shard, self.layout, self.shard_edits(start, stop), start):
            yield shard, key, sample

    def rows(self) -> Iterator[Row]:
        """Every row in source order: key, image, label and caption where there are any, other members as bytes."""
        return (sample_row(key, sample, self.layout.columns) for _, key, sample in self.samples())

    def row(self, number: int) -> Row:
        """One row by its number in source order."""
        index = self._source_index
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        place, length, shard, key = (index.table[name][number].as_py() for name in ("offset", "length", "shard", "key"))
        edit = None if self._edit_map is None else self._edit_map.of_row(number % len(self))
        file = self.shards[shard]
        descriptor = os.open(file, os.O_RDONLY)
        try:
            _refuse_changed(file, os.fstat(descriptor), index.meta.shards[shard])
            sample = read_sample(descriptor, file, self.layout, place, length, edit)
        finally:
            os.close(descriptor)
        return sample_row(key, sample, self.layout.columns)

    def batches(self, order: Sequence[int] | None = None, *, size: int = _BATCH) -> Iterator[pa.RecordBatch]:
        """Rows in batches, in source order or in the `order` of row numbers that is given."""
        if size < 1:
            raise ValueError(f"found a batch size of {size}, expected 1 or more")
        index = self._source_index
        present = {"label": (index.numbers("label") >= 0).any(), "caption": index.column("caption").null_count < len(index)}
        names = ["key", "image", *(name for name, here in present.items() if here)]
        names += sorted({other for shard in index.meta.shards for other in shard.others})
        rows = self.rows() if order is None else map(self.row, order)
        held: list[Row] = []
        for row in rows:
            held.append(row)
            if len(held) == size:
                yield _as_batch(held, names)
                held = []
        if held:
            yield _as_batch(held, names)

    def to_webdataset(self) -> WebSamples:
        """Samples as webdataset yields them undecoded; the first stage of a `wds.DataPipeline`.

        Each process gets its share of the shards (torch's loader workers, RANK of WORLD_SIZE) by itself: `split_by_worker` and
        `split_by_node` after it would lose samples.
        """
        return WebSamples(self)

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


def _refuse_changed(file: Path, found: os.stat_result, known: ShardStat) -> None:
    """An index says where samples lie: in a shard that has changed since, another may lie there."""
    if (found.st_size, found.st_mtime_ns) != (known.bytes, known.mtime_ns):
        what, expected = "its size or time has changed", "the shard as it was indexed"
        raise DatasetError(Problem(str(file), what, expected, "the source has changed: open it again"))


def _as_batch(rows: list[Row], names: Sequence[str]) -> pa.RecordBatch:
    kinds: dict[str, pa.DataType] = {"key": pa.large_string(), "caption": pa.large_string(), "label": pa.int64()}
    columns = [pa.array([row.get(name) for row in rows], kinds.get(name, pa.large_binary())) for name in names]
    return pa.record_batch(columns, names=list(names))


def _chain_edits(before: pa.Table, after: pa.Table) -> pa.Table:
    """The composed edits of two plans, the second made of what the first left."""
    stages = [part.append_column("stage", pa.array([stage] * len(part), pa.int32())) for stage, part in enumerate((before, after))]
    both = pa.concat_tables(stages).sort_by([("key", "ascending"), ("stage", "ascending")])
    return compose_edits(both)


def open_dataset(
    path: str | Path,
    *,
    source: str | Path | None = None,
    split: str | None = None,
    key: str | None = None,
    classes: int | None = None,
    label_column: str = "",
    caption_column: str = "",
) -> Dataset:
    """Open WebDataset shards, or a variant: a folder with `.corruptkit/manifest.json`, whose manifest answers every question.

    `source` says where the source of an overlay lies, if not where its manifest says. Raises DatasetError, IntegrityError.
    """
    place = local_path(path)
    if manifest_path(place).exists():
        given = {"split": split, "key": key, "classes": classes, "label_column": label_column, "caption_column": caption_column}
        return _refuse_flags(open_variant(place, source), given)
    if (place / FOLDER / "partial").exists():
        do = "start the same `corruptkit make` again to finish it"
        raise DatasetError(Problem(str(place), "an unfinished variant", "a finished one", do))
    shards = list_shards(place, split)
    layout = Layout(check_rule(key or "sample"), Columns(label_column, caption_column))
    known = place if place.is_dir() else place.parent if glob.has_magic(place.name) else place.with_suffix("")
    name = strip_secrets(known.resolve().name)
    return Dataset(place, name, tuple(shards), layout, split_of(shards, split), classes)


def _refuse_flags(variant: Dataset, given: dict[str, str | int | None]) -> Dataset:
    """A variant's manifest says how to read it: what is stated besides must say the same."""
    columns = variant.layout.columns
    known = {
        "split": variant.split,
        "key": variant.layout.key_rule,
        "classes": variant.classes,
        "label_column": columns.label,
        "caption_column": columns.caption,
    }
    for name, value in given.items():
        if value not in (None, "") and value != known[name]:
            flag, do = f"--{name.replace('_', '-')}", "leave it out: the manifest of a variant says it"
            raise CatalogError(Problem(str(variant.path), f"{flag} {value!r:.40}", f"{known[name]!r:.40}", do, key=name))
    return variant


def open_variant(place: Path, source: str | Path | None = None, *, depth: int = _NESTED) -> Dataset:
    """Open a variant by its manifest."""
    manifest = read_manifest(place)
    shards = tuple(place / shard.name for shard in manifest.shards)
    opened = replace(_as_source(place, manifest, shards), name=place.resolve().name, manifest=manifest)
    if manifest.circumstance.format == "webdataset":
        return opened
    below = open_source(place, manifest, source, depth=depth)
    dataset = replace(opened, shards=below.shards, edits=below.edits)
    plan = place / FOLDER / "plan.parquet"
    return dataset.with_edits(read_edits(plan), str(plan))


def open_source(place: Path, manifest: Manifest, source: str | Path | None = None, *, depth: int = _NESTED, trust: bool = True) -> Dataset:
    """The source of a variant, where it was or where `source` says, checked by its fingerprint.

    Without `trust`, an index that lies in the folder of a variant, where anybody may have put it, is not read.
    """
    places: list[str | Path] = [source] if source else [manifest.source.source_url, place / manifest.circumstance.source_path]
    where = next((local_path(path) for path in places if Path(path).exists()), local_path(places[0]))
    if not where.exists() and not glob.has_magic(where.name):
        found, expected = "the variant's source is not there", "the source it was made of"
        raise DatasetError(Problem(str(where), found, expected, "state --source PATH", key=str(place)))
    known = manifest.identity["source"]
    if not depth:
        raise DatasetError(Problem(str(place), f"more than {_NESTED} overlays over each other", do="materialise one of them"))
    if manifest_path(where).exists():
        below = open_variant(where, depth=depth - 1)
    else:
        below = _as_source(where, manifest, tuple(list_shards(where, known["split"])))
    found = below.index(cache=trust or below.manifest is None).meta.fingerprint
    if found != known["fingerprint"]:
        expected, do = f"fingerprint {known['fingerprint'][:16]}...", "name the source that the variant was made of"
        raise IntegrityError(Problem(str(where), f"fingerprint {found[:16]}...", expected, do, key=str(place)))
    return below


def _as_source(where: Path, manifest: Manifest, shards: tuple[Path, ...]) -> Dataset:
    """Shards to be read as a manifest says that its source was."""
    known, record = manifest.identity["source"], manifest.source
    layout = Layout(check_rule(known["key_rule"]), Columns(record.label_column, record.caption_column))
    return Dataset(where, record.name, shards, layout, known["split"], known["classes"], known.get("null_label", False))
