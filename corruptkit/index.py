"""The index: the light table of a source, one row a sample, without its images."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from pydantic import BaseModel, ConfigDict
from xxhash import xxh3_128

from corruptkit.corruptions.rows import Ints, Rows
from corruptkit.digest import canonical_json, fingerprint, sha256_hex
from corruptkit.draws import hash_keys
from corruptkit.engines.local import Watch, map_shards
from corruptkit.errors import DatasetError, Problem, TransferWarning
from corruptkit.files import open_atomic
from corruptkit.formats import FORMATS, listed
from corruptkit.formats.layout import SCANNED, Layout, Scan, Shard
from corruptkit.formats.sidecar import sidecar_of
from corruptkit.manifest import FOLDER, SourceIdentity
from corruptkit.remote import RemotePath, stat_files

INDEX_VERSION = "6"
_HEAD = 64
_PIECE = 1 << 26
SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("hash", pa.uint64()),
        ("shard", pa.int32()),  # number in `shards`
        ("position", pa.int64()),  # number of the sample in its shard
        ("offset", pa.int64()),  # where the sample's bytes begin in the shard, and how many they are
        ("length", pa.int64()),
        ("label", pa.int64()),  # -1: none
        ("caption", pa.large_string()),  # null: none
        ("order", pa.int64()),  # row j of the ascending keys is row order[j] of this table
    ]
)

# Samples that are no rows: excluded.parquet with the shard's name in place of its number.
EXCLUDED = pa.schema([("shard", pa.int32()), ("position", pa.int64()), ("key", pa.large_string()), ("reason", pa.large_string())])


class ShardStat(BaseModel):
    """A shard as it was when it was indexed; `digest` is XXH3 of its headers and conditions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    mtime_ns: int
    rows: int
    digest: str
    others: tuple[str, ...] = ()  # columns that its rows have besides key, image, label and caption
    images: tuple[str, ...] = ()  # suffixes of its images, "" of those in tables
    hidden: tuple[str, ...] = ()  # columns that its rows do not show, since a field of rows has their name


class IndexMeta(BaseModel):
    """What an index was made of and what holds for all of its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    split: str
    key_rule: str
    classes: int | None
    classes_inferred: bool
    null_label: bool
    fingerprint: str
    shards: tuple[ShardStat, ...]


@dataclass(frozen=True)
class Index:
    """An index in memory (mapped from its file where it has one); the table stands in the order of shards and positions."""

    table: pa.Table
    meta: IndexMeta
    excluded: pa.Table = field(default_factory=EXCLUDED.empty_table)
    mapped: mmap.mmap | None = field(default=None, repr=False, compare=False)  # the file that the table lies in

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> pa.Array:
        """A column in source order."""
        chunks = self.table[name].chunks
        return chunks[0] if len(chunks) == 1 else self.table[name].combine_chunks()

    def numbers(self, name: str) -> Any:
        """A numeric column in source order, as a NumPy view."""
        return self.column(name).to_numpy(zero_copy_only=True)

    @cached_property
    def places(self) -> tuple[Any, ...]:
        """Position, offset, length and shard of the rows: columns that are asked for row by row."""
        return tuple(self.numbers(name) for name in ("position", "offset", "length", "shard"))

    def rows(self) -> Rows:
        """The rows in ascending key bytes."""
        ordered = self if _is_identity(self.numbers("order")) else replace(self, table=self._take_ordered())
        labels, captions = ordered.numbers("label"), ordered.column("caption")
        return Rows(
            ordered.column("key"),
            ordered.numbers("hash"),
            labels if (labels >= 0).any() else None,
            captions if captions.null_count < len(captions) else None,
            self.meta.classes,
        )

    def _take_ordered(self) -> pa.Table:
        """The columns of rows, copied into the order of keys, the largest first; of what has been copied, no page is held mapped."""
        order, taken = pa.array(self.numbers("order")), {}
        for name in ("caption", "key", "hash", "label"):
            taken[name] = self.column(name).take(order)
            if self.mapped is not None:
                self.mapped.madvise(mmap.MADV_DONTNEED)
        return pa.table(taken)

    def identity(self) -> SourceIdentity:
        """The source's part of an identity."""
        meta = self.meta
        source = SourceIdentity(
            rows=len(self), split=meta.split, key_rule=meta.key_rule, fingerprint=meta.fingerprint, classes=meta.classes
        )
        if meta.null_label:
            source["null_label"] = True
        return source


def _is_identity(order: Ints) -> bool:
    return bool((order == np.arange(len(order))).all())


def make_index(  # noqa: PLR0913 - what a source may leave open, by name
    tables: Sequence[pa.Table],
    shards: Sequence[ShardStat],
    *,
    split: str,
    key_rule: str,
    classes: int | None,
    null_label: bool,
    where: str,
    excluded: pa.Table | None = None,
    exclude: bool = False,
    stored_keys: bool = False,
) -> Index:
    """Join the tables of shards (SCANNED) into one index, checked and fingerprinted.

    With `exclude`, the rows of a duplicated key and those whose label is too large join the excluded ones. With `stored_keys`, the
    shards hold what the rule once gave: the order of a variant's rows need not be the source's.
    """
    table, numbered = _join_tables(tables), key_rule == "ordinal" and not stored_keys
    if numbered:  # a shard that is scanned alone does not know how many rows stand before it
        table = table.set_column(0, "key", _ordinal_keys(len(table)))
    out = EXCLUDED.empty_table() if excluded is None else excluded
    if exclude:
        table, more = _exclude_rows(table, classes, null_label=null_label)
        out = pa.concat_tables([out, more]).sort_by([("shard", "ascending"), ("position", "ascending")]).combine_chunks()
        counts = np.bincount(table["shard"].to_numpy(), minlength=len(shards)).tolist()
        shards = [stat.model_copy(update={"rows": count}) for stat, count in zip(shards, counts, strict=True)]
    if numbered and exclude:  # excluded rows are not counted
        table = table.set_column(0, "key", _ordinal_keys(len(table)))
    keys = table["key"].combine_chunks()
    order = sort_keys(keys)
    _refuse_duplicates(keys, order, table, shards, where)
    found = _count_classes(table, classes, shards, where, null_label=null_label)
    table = table.append_column("hash", pa.array(hash_keys(_raw(keys)))).append_column("order", pa.array(order))
    meta = IndexMeta(
        version=INDEX_VERSION,
        split=split,
        key_rule=key_rule,
        classes=found,
        classes_inferred=found is not None and classes is None,
        null_label=null_label,
        fingerprint="",
        shards=tuple(shards),
    )
    return with_fingerprint(Index(table.select(SCHEMA.names), meta, out))


def _ordinal_keys(count: int) -> pa.Array:
    return pa.array([f"row-{row:012d}" for row in range(count)], pa.large_string())


def _join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    numbered = [table.append_column("shard", pa.array(np.full(len(table), n, np.int32))) for n, table in enumerate(tables)]
    empty = pa.table({name: pa.array([], SCHEMA.field(name).type) for name in (*SCANNED.names, "shard")})
    return pa.concat_tables([empty, *(part.select(empty.column_names).cast(empty.schema) for part in numbered)]).combine_chunks()


def _exclude_rows(table: pa.Table, classes: int | None, *, null_label: bool) -> tuple[pa.Table, pa.Table]:
    """The rows that can stay, and the others as EXCLUDED: every row of a duplicated key, and labels that are no class."""
    counts = pc.value_counts(table["key"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    double = np.asarray(pc.is_in(table["key"], value_set=twice))
    labels = table["label"].to_numpy()
    large = labels >= (np.iinfo(np.int64).max if classes is None else classes + null_label)
    out = double | large
    reasons = pa.array(np.where(double[out], "a duplicate key", "a label that is no class"), pa.large_string())
    columns = [table[name].filter(pa.array(out)) for name in ("shard", "position", "key")]
    return table.filter(pa.array(~out)).combine_chunks(), pa.table([*columns, reasons], schema=EXCLUDED)


def with_fingerprint(index: Index) -> Index:
    """The index with the fingerprint of its rows."""
    rows = index.rows()
    mark = fingerprint(rows.keys, rows.labels, rows.captions)
    return replace(index, meta=index.meta.model_copy(update={"fingerprint": mark}))


def _raw(keys: pa.Array) -> list[bytes]:
    raw: list[bytes] = keys.cast(pa.large_binary()).to_pylist()
    return raw


def sort_keys(keys: pa.Array) -> Ints:
    """The rows by ascending key bytes; nearly every source lies in that order already."""
    if len(keys) < 2 or pc.all(pc.less(keys[:-1], keys[1:])).as_py():
        return np.arange(len(keys))
    order: Ints = pc.array_sort_indices(keys).to_numpy().astype(np.int64)
    return order


def _refuse_duplicates(keys: pa.Array, order: Ints, table: pa.Table, shards: Sequence[ShardStat], where: str) -> None:
    ordered = keys.take(pa.array(order))
    same = np.flatnonzero(np.asarray(pc.equal(ordered[:-1], ordered[1:]))) if len(keys) > 1 else np.zeros(0, np.int64)
    problems = []
    for row in order[same + 1][:5].tolist():
        shard = shards[table["shard"][row].as_py()].name
        problems.append(
            Problem(
                str(Path(where) / shard),
                f"duplicate key ({len(same)} in all)",
                "keys that are unique in a split",
                "choose another --key rule, such as shard/key",
                key=keys[row].as_py(),
            )
        )
    if problems:
        raise DatasetError(*problems)


def _count_classes(table: pa.Table, classes: int | None, shards: Sequence[ShardStat], where: str, *, null_label: bool) -> int | None:
    """K: as declared, else the largest label + 1; None where there are no labels."""
    labels = table["label"].to_numpy()
    largest = int(labels.max(initial=-1))
    if classes is None:
        return largest + (0 if null_label else 1) if largest >= 0 else None
    if largest >= classes + null_label:
        key, shard = (table[name][int(labels.argmax())].as_py() for name in ("key", "shard"))
        file, do = str(Path(where) / shards[shard].name), "state the right --classes or mend the label"
        raise DatasetError(Problem(file, f"label {largest}", f"labels below {classes}", do, key=key))
    return classes


def save_index(index: Index, path: Path) -> None:
    """Write an index, led by a checksum of all that follows, to a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob("index-*.arrow.*.tmp"):  # of a run that was killed
        if not Path("/proc", leftover.name.split(".")[-2]).exists():
            leftover.unlink(missing_ok=True)
    table = index.table.replace_schema_metadata({"corruptkit": index.meta.model_dump_json()})
    with open_atomic(path, path.parent) as file:
        file.write(bytes(_HEAD))
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        with pa.ipc.new_stream(file, EXCLUDED) as writer:
            writer.write_table(index.excluded)
        file.flush()
        with open(file.name, "rb") as written:  # noqa: PTH123 - the name of an open file
            head = _make_head(_map_file(written))
        file.seek(0)
        file.write(head)


def load_index(path: Path) -> Index | None:
    """Map an index file; None where there is none that is whole and of this version."""
    try:
        with path.open("rb") as file:
            content = _map_file(file)
        if len(content) < _HEAD or content[:_HEAD] != _make_head(content):
            return None
        reader = pa.BufferReader(pa.py_buffer(content)[_HEAD:])
        table, excluded = (pa.ipc.open_stream(reader).read_all() for _ in range(2))
        meta = IndexMeta.model_validate_json((table.schema.metadata or {}).get(b"corruptkit", b""))
    except (OSError, ValueError, pa.ArrowException):  # of an empty file, of one that is none, of a meta that is none
        return None
    matches = table.schema.remove_metadata() == SCHEMA and excluded.schema == EXCLUDED and meta.version == INDEX_VERSION
    return Index(table.replace_schema_metadata(None), meta, excluded, content) if matches else None


def _map_file(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _make_head(content: mmap.mmap) -> bytes:
    """What an index file begins with: 64 bytes, so that the columns stay aligned in memory, with a checksum of what follows them."""
    checksum = xxh3_128()
    for start in range(0, len(content), _PIECE):
        with memoryview(content) as view, view[max(start, _HEAD) : start + _PIECE] as piece:
            checksum.update(piece)
        # Columns that nobody reads shall not count as memory of this process.
        content.madvise(mmap.MADV_DONTNEED, start, min(_PIECE, len(content) - start))
    return f"corruptkit index {INDEX_VERSION} {checksum.hexdigest()}\n".encode().ljust(_HEAD)


class Readable(NamedTuple):
    """What an index is made of: shards, and how they are to be read. `path` is what messages call the source."""

    path: Path
    root: Path
    shards: tuple[Path, ...]
    layout: Layout
    split: str
    classes: int | None
    null_label: bool
    exclude: bool = False  # list bad samples, in place of refusing them
    known: pa.Table | None = None  # samples that are excluded already, as EXCLUDED

    def shard(self, number: int) -> Shard:
        """A shard to scan."""
        return Shard(self.shards[number], self.root, self.layout, 0, skips(self.known, number))


def skips(excluded: pa.Table | None, shard: int) -> frozenset[int]:
    """The positions in a shard that are no rows."""
    if excluded is None or not len(excluded):
        return frozenset()
    return frozenset(excluded.filter(pc.equal(excluded["shard"], shard))["position"].to_pylist())


def find_index(source: Readable, workers: int = 1, watch: Watch | None = None, *, cache: bool = True) -> Index:
    """The index of the shards as they lie, from its file where that is still true; else scanned, and kept."""
    stats = stat_shards(source)
    known = [] if source.known is None else source.known.select(["shard", "position"]).to_pylist()
    question = [source.split, source.classes, source.null_label, source.exclude, known, repr(source.layout)]
    mark = sha256_hex(canonical_json([question, [stat[0] for stat in stats]]))[:16]
    files = [folder / f"index-{mark}.arrow" for folder in _index_folders(source)] if cache else []
    for file in files:
        index = load_index(file)
        if index is not None and [(s.name, s.bytes, s.mtime_ns) for s in index.meta.shards] == stats:
            return index
    index = scan_source(source, stats, workers, watch)
    for file in files:
        try:
            save_index(index, file)
            return load_index(file) or index
        except OSError:
            continue  # a source that cannot be written to, or a full disk: the next folder, or none
    return index


def stat_shards(source: Readable) -> list[tuple[str, int, int]]:
    """Name, bytes and time of the shards as they lie now; of remote ones, a number for their etag or version in the place of a time."""
    remote = [shard for shard in source.shards if isinstance(shard, RemotePath)]
    if not remote:
        return [stat_shard(source.shard(number)) for number in range(len(source.shards))]
    return [(source.shard(number).name, *found) for number, found in enumerate(stat_files(remote))]


def stat_shard(shard: Shard) -> tuple[str, int, int]:
    """Name, bytes and time of a shard as it lies now."""
    try:
        found = shard.file.stat()
    except OSError as error:
        raise DatasetError(Problem(str(shard.file), f"cannot be read: {error.strerror}", do="mend the path or its permissions")) from None
    return shard.name, found.st_size, found.st_mtime_ns


def _index_folders(source: Readable) -> list[Path]:
    """Where an index is kept: beside its shards, else in the user's cache."""
    home = source.root.resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corruptkit"
    if isinstance(home, RemotePath):
        return [cache / sha256_hex(str(home).encode())[:16]]
    # A folder that is a shard itself would change by what is written into it.
    beside = [] if source.root in source.shards else [home / FOLDER]
    return [*beside, cache / sha256_hex(os.fsencode(home))[:16]]


def scan_source(source: Readable, stats: Sequence[tuple[str, int, int]], workers: int, watch: Watch | None) -> Index:
    """Read the headers and conditions of all shards, one task a shard."""
    announce_reading(source, [size for _, size, _ in stats])
    tasks = [(source.shard(number), source.exclude) for number in range(len(source.shards))]
    found = map_shards(_scan_task, tasks, workers)
    scans: list[Scan] = list(watch(found, len(tasks)) if watch else found)
    shards = [
        ShardStat(
            name=name,
            bytes=size,
            mtime_ns=mtime,
            rows=len(scan.table),
            digest=scan.digest,
            others=scan.others,
            images=scan.images,
            hidden=scan.hidden,
        )
        for (name, size, mtime), scan in zip(stats, scans, strict=True)
    ]
    for shard, scan in zip(source.shards, scans, strict=True):
        if scan.note:
            warnings.warn(str(Problem(str(shard), f"read from end to end: {scan.note}")), TransferWarning, stacklevel=2)
    _check_images(source, scans)
    listed = list_excluded(scans)
    return make_index(
        [scan.table for scan in scans],
        shards,
        split=source.split,
        key_rule=source.layout.key_rule,
        classes=source.classes,
        null_label=source.null_label,
        where=str(source.root),
        excluded=listed if source.known is None else pa.concat_tables([source.known, listed]),
        exclude=source.exclude,
        stored_keys=source.layout.key_encoding != "source",
    )


def announce_reading(source: Readable, sizes: Sequence[int]) -> None:
    """Say, before it begins, that remote tars without side-cars are read from end to end."""
    if not isinstance(source.root, RemotePath) or source.layout.format != "webdataset":
        return
    bare = [size for shard, size in zip(source.shards, sizes, strict=True) if sidecar_of(shard) is None]
    if bare:
        found = f"{len(bare)} tars of {sum(bare):,} bytes in all have no side-car: they are read once, from end to end"
        warnings.warn(str(Problem(str(source.path), found)), TransferWarning, stacklevel=2)


def list_excluded(scans: Sequence[Scan]) -> pa.Table:
    """What scanning excluded, as EXCLUDED."""
    new = [(number, *excluded) for number, scan in enumerate(scans) for excluded in scan.excluded]
    columns = zip(*new, strict=True) if new else [()] * len(EXCLUDED)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, EXCLUDED.types, strict=True)], schema=EXCLUDED)


def _check_images(source: Readable, scans: Sequence[Scan]) -> None:
    """Refuse the name of an image that no row has; tables have said so by themselves."""
    name = source.layout.columns.image
    if name and any(len(scan.table) for scan in scans) and not any(scan.images for scan in scans):
        found, expected = f"no sample with a member .{name}", "the images under this suffix"
        raise DatasetError(Problem(str(source.path), found, expected, "name another --image-column"))


def _scan_task(item: tuple[Shard, bool]) -> Scan:
    shard, exclude = item
    if isinstance(shard.file, RemotePath) and shard.layout.format == "webdataset":
        return listed.scan_shard(shard, exclude=exclude)
    return FORMATS[shard.layout.format].scan_shard(shard, exclude=exclude)
