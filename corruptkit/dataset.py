"""A Dataset: images and conditions as they lie, with the edits of a variant applied while they are read."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from corruptkit.corruptions.embeddings import Embeddings
from corruptkit.digest import sha256_hex
from corruptkit.edits import EditMap, compose_edits, edit_index, map_edits
from corruptkit.engines.local import Watch
from corruptkit.errors import CatalogError, DatasetError, IntegrityError, Problem, nearest_word, strip_secrets
from corruptkit.files import local_path
from corruptkit.formats import FORMATS, arrow, parquet, webdataset
from corruptkit.formats.conditions import FIELDS, Columns, FieldName, RowEdit
from corruptkit.formats.excluded import read_excluded
from corruptkit.formats.keys import check_rule
from corruptkit.formats.layout import KeyEncoding, Layout, Row, Shard, Spot
from corruptkit.formats.members import row_members
from corruptkit.formats.overlay import read_edits
from corruptkit.formats.shards import Found, find_shards
from corruptkit.formats.splits import asked_split
from corruptkit.formats.table import class_names
from corruptkit.index import Index, Readable, ShardStat, find_index, skips
from corruptkit.manifest import FOLDER, Manifest, manifest_path, read_manifest
from corruptkit.names import hub_name
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe, drops_labels, load_embeddings, recipe_from_identity

_NESTED = 16  # overlays over overlays, at most
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
        return replace(self.with_edits(plan.edits), manifest=None, null_label=self.null_label or drops_labels(recipe.identity()))

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
        spot = Spot(position, offset, length, number)
        return FORMATS[self.layout.format].read_row(Shard(file, self.root, self.layout, number), spot, edit)

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
        """Rows in batches, in source order or in the `order` of row numbers that is given."""
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
        found = os.stat(file)  # noqa: PTH116 - asked for every row: a Path takes twice as long
    except OSError as error:
        raise DatasetError(Problem(str(file), f"cannot be read: {error.strerror}", do="mend the path or its permissions")) from None
    if (found.st_size, found.st_mtime_ns) != (known.bytes, known.mtime_ns):
        what, expected = "its size or time has changed", "the shard as it was indexed"
        raise DatasetError(Problem(str(file), what, expected, "the source has changed: open it again"))


def _as_batch(rows: list[Row], schema: pa.Schema) -> pa.RecordBatch:
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.record_batch(columns, schema=schema)


def _cut(tables: Iterable[pa.Table], size: int) -> Iterator[pa.RecordBatch]:
    """Tables cut and joined to batches of one size; only what lies across two tables is copied."""
    held: list[pa.Table] = []
    for table in tables:
        start = 0
        while start < len(table):
            piece = table.slice(start, size - sum(map(len, held)))
            start += len(piece)
            held.append(piece)
            if sum(map(len, held)) == size:
                yield _one_batch(held)
                held = []
    if held:
        yield _one_batch(held)


def _one_batch(tables: Sequence[pa.Table]) -> pa.RecordBatch:
    batches = pa.concat_tables(tables).to_batches()
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


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


def open_dataset(  # noqa: PLR0913 - each is a question that a source may leave open
    path: str | Path,
    *,
    source: str | Path | None = None,
    split: str | None = None,
    key: str | None = None,
    classes: int | None = None,
    label_column: str = "",
    caption_column: str = "",
    image_column: str = "",
    fields: Sequence[FieldName] = (),
    bad: Literal["refuse", "exclude"] = "refuse",
) -> Dataset:
    """Open a data set as it lies (tars, Parquet, Arrow, a folder of images), or a variant, whose manifest answers every question.

    `source` says where the source of an overlay lies, if not where its manifest says. A row without one of the `fields`, or
    without a field whose column is named, is a bad one; bad rows are refused, or are no rows. Raises DatasetError, IntegrityError.
    """
    place = local_path(path)
    if bad not in ("refuse", "exclude"):
        raise CatalogError(Problem("bad", f"found '{bad}'", do=nearest_word(bad, ("refuse", "exclude"))))
    columns = Columns(label_column, caption_column, image_column)
    if manifest_path(place).exists():
        given = {
            "split": asked_split(split),
            "key": key,
            "classes": classes,
            "label_column": label_column,
            "caption_column": caption_column,
        }
        return _refuse_flags(open_variant(place, source), given | {"image_column": image_column})
    if (place / FOLDER / "partial").exists():
        do = "start the same `corruptkit make` again to finish it"
        raise DatasetError(Problem(str(place), "an unfinished variant", "a finished one", do))
    found = find_shards(place, split)
    rule = check_rule(key, found.format) if key else FORMATS[found.format].find_rule(found.shards[0])
    needed = {*fields, *_named_fields(columns)}
    names = found.class_names or _stated_classes(found, label_column)
    layout = Layout(rule, columns, found.format, "source", tuple(sorted(needed)), names)
    known = place if place.is_dir() else place.parent if glob.has_magic(place.name) else place.with_suffix("")
    name = strip_secrets(known.resolve().name)
    count = classes if classes is not None else len(names) or None
    return Dataset(place, name, found.shards, layout, found.split, count, root=found.root, exclude=bad == "exclude")


def _named_fields(columns: Columns) -> list[FieldName]:
    """The fields whose columns are named: every row must have them."""
    return [field for field in FIELDS if getattr(columns, field)]


def _stated_classes(found: Found, label_column: str) -> tuple[str, ...]:
    """The class names that `datasets` keeps in the metadata of a table."""
    if found.format not in ("parquet", "arrow"):
        return ()
    return class_names((parquet if found.format == "parquet" else arrow).read_schema(found.shards[0]), label_column)


def _refuse_flags(variant: Dataset, given: dict[str, str | int | None]) -> Dataset:
    """A variant's manifest says how to read it: what is stated besides must say the same."""
    columns = variant.layout.columns
    known = {
        "split": variant.split,
        "key": variant.layout.key_rule,
        "classes": variant.classes,
        "label_column": columns.label,
        "caption_column": columns.caption,
        "image_column": columns.image,
    }
    for name, value in given.items():
        if value not in (None, "") and value != known[name]:
            flag, do = f"--{name.replace('_', '-')}", "leave it out: the manifest of a variant says it"
            raise CatalogError(Problem(str(variant.path), f"{flag} {value!r:.40}", f"{known[name]!r:.40}", do, key=name))
    return variant


def open_variant(place: Path, source: str | Path | None = None, *, depth: int = _NESTED) -> Dataset:
    """Open a variant by its manifest."""
    manifest = read_manifest(place)
    made = manifest.circumstance
    if made.format == "overlay":
        below = open_source(place, manifest, source, depth=depth)
        opened = replace(below, path=place, manifest=manifest, null_label=below.null_label or drops_labels(manifest.identity["recipe"]))
        plan = place / FOLDER / "plan.parquet"
        return replace(opened.with_edits(read_edits(plan), str(plan)), name=place.resolve().name)
    found = Found(made.format, place, tuple(place / shard.name for shard in manifest.shards), manifest.identity["source"]["split"])
    opened = _as_source(place, manifest, found, made.key_encoding)
    null_label = opened.null_label or drops_labels(manifest.identity["recipe"])
    return replace(opened, name=place.resolve().name, manifest=manifest, null_label=null_label)


def stored_recipe(place: Path, manifest: Manifest, embeddings: str | Path | None = None) -> Recipe:
    """The recipe of a variant, from its identity and the content that lies beside it; embeddings lie where they are said to."""
    inputs: dict[str, bytes | Embeddings] = {}
    for record in manifest.files:
        if record.path.startswith(f"{FOLDER}/inputs/"):
            content = (place / record.path).read_bytes()
            inputs[sha256_hex(content)] = content
    if embeddings is not None:
        found = load_embeddings(local_path(embeddings))
        inputs[found.digest] = found
    return recipe_from_identity(manifest.identity["recipe"], inputs, str(place / FOLDER / "manifest.json"))


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
        below = _as_source(where, manifest, _find_again(where, known["split"]), "source", place)
    found = below.index(cache=trust or below.manifest is None).meta.fingerprint
    if found != known["fingerprint"]:
        expected, do = f"fingerprint {known['fingerprint'][:16]}...", "name the source that the variant was made of"
        raise IntegrityError(Problem(str(where), f"fingerprint {found[:16]}...", expected, do, key=str(place)))
    return below


def _find_again(where: Path, split: str) -> Found:
    """The shards of a source that a manifest names; a copy of one folder of a DatasetDict may state the split it was cut out of."""
    saved = where.is_dir() and not (where / arrow.SAVED_SPLITS).exists() and bool(arrow.read_state(where)[1])
    return find_shards(where, None if saved else split)


def _as_source(where: Path, manifest: Manifest, found: Found, encoding: KeyEncoding, place: Path | None = None) -> Dataset:
    """Shards to be read as a manifest says that its source was; `place` is the variant, if they are not its own."""
    known, record = manifest.identity["source"], manifest.source
    own = encoding == "source"
    columns = Columns(record.label_column, record.caption_column, record.image_column) if own else Columns()
    needed = _named_fields(columns)
    rule = check_rule(known["key_rule"], found.format) if own else known["key_rule"]
    layout = Layout(rule, columns, found.format, encoding, tuple(sorted(needed)), found.class_names or record.class_names)
    excluded = read_excluded(place or where, [shard.name for shard in record.shards]) if own and manifest.counts.excluded else None
    classes, null_label = known["classes"], known.get("null_label", False)
    return Dataset(where, record.name, found.shards, layout, known["split"], classes, null_label, root=found.root, excluded=excluded)
