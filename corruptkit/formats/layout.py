"""What every format is told of a source and gives back: a layout, its shards, and what scanning a shard finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pyarrow as pa

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import Columns, FieldName, RowEdit

FormatName = Literal["webdataset", "parquet", "arrow", "imagefolder"]
# How keys stand in the shards: as the source's key rule finds them; in the names of members, percent-encoded; in a column `key`.
KeyEncoding = Literal["source", "percent", "column"]
Row = dict[str, Any]
ROW_FIELDS = ("key", "image", "label", "caption")  # of a row; what else it has is named as in its shard

SCANNED = pa.schema(
    [
        ("key", pa.large_string()),
        ("position", pa.int64()),  # number of the sample in its shard, excluded ones counted
        ("offset", pa.int64()),  # webdataset: where the sample's bytes begin; elsewhere 0
        ("length", pa.int64()),  # and how many they are; imagefolder: the image's; elsewhere 0
        ("label", pa.int64()),  # -1: none
        ("caption", pa.large_string()),  # null: none
    ]
)


class Layout(NamedTuple):
    """How to read a source: its format, the rule that yields keys, and what holds image, label and caption."""

    key_rule: str = "sample"
    columns: Columns = Columns()
    format: FormatName = "webdataset"
    key_encoding: KeyEncoding = "source"
    needed: tuple[FieldName, ...] = ()  # fields without which a row is a bad one
    class_names: tuple[str, ...] = ()  # by label, where the source names its classes


class Shard(NamedTuple):
    """A shard to read: rows are numbered from `first_row`, and the samples at the positions to `skip` are no rows."""

    file: Path
    root: Path  # what the shard's name and paths in it are relative to
    layout: Layout = Layout()
    first_row: int = 0
    skip: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """The shard's path from the root, with `/`; `.` for the root itself."""
        return self.file.relative_to(self.root).as_posix()


class Excluded(NamedTuple):
    """A sample that is no row: where it stands, its key as far as it is known, and why."""

    position: int
    key: str
    reason: str


class Scan(NamedTuple):
    """What scanning a shard finds: its rows (SCANNED), what it excludes, and what its rows have besides."""

    table: pa.Table
    excluded: tuple[Excluded, ...]
    digest: str  # XXH3 of headers and conditions
    others: tuple[str, ...]  # the other columns of its rows
    images: tuple[str, ...] = ()  # the suffixes of its images; "" of those in tables
    hidden: tuple[str, ...] = ()  # columns that no row shows, since a field of rows has their name
    note: str = ""  # why a remote shard was read from end to end though a side-car lies beside it


class Spot(NamedTuple):
    """Where a row stands in its shard, as the index says."""

    position: int
    offset: int
    length: int
    number: int  # of the row in the data set


class Reader(Protocol):
    """What a module of this folder does to read its format. Edits come by key; rows come with their image's file name."""

    def find_rule(self, file: Path) -> str:
        """The key rule of a source that states none, from its first shard."""

    def scan_shard(self, shard: Shard, *, exclude: bool = False) -> Scan:
        """The shard's rows of the index; bad ones are refused, or listed where `exclude` is set."""

    def read_rows(self, shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
        """Every row in order, edits applied."""

    def read_row(self, shard: Shard, spot: Spot, edit: RowEdit | None) -> Row:
        """One row by its place."""

    def read_tables(self, shard: Shard, edits: Mapping[str, RowEdit], schema: pa.Schema) -> Iterator[tuple[pa.Array, pa.Table]]:
        """The same rows in pieces, as tables of a schema, each with its images' file names."""

    def other_types(self, shard: Shard, others: tuple[str, ...]) -> dict[str, pa.DataType]:
        """The Arrow types of the other columns."""


# What to do with a sample that is no row: note it and go on, or raise.
OnBad = Callable[[int, DatasetError], None]


class Rejects:
    """Collects bad samples where they are to be excluded, and raises the first one where they are not."""

    def __init__(self, *, exclude: bool) -> None:
        self._exclude = exclude
        self.found: list[Excluded] = []

    def __call__(self, position: int, error: DatasetError) -> None:
        if not self._exclude:
            raise error
        problem = error.problems[0]
        self.found.append(Excluded(position, _printable(problem.key), problem.found))


def _printable(key: str) -> str:
    """A key that Parquet can hold."""
    return key.encode("utf-8", "backslashreplace").decode()


def missing_field(shard: Shard, field: FieldName, key: str) -> DatasetError:
    """A row lacks a field that the catalog or a flag says it has."""
    do = f"mend the row, name another --{field}-column, or leave such rows out with --bad exclude"
    return DatasetError(Problem(str(shard.file), f"no {field}", f"a {field} in every row", do, key=key))


def changed_source(file: Path, key: str, found: str, expected: str = "the shard as it was indexed") -> DatasetError:
    """A shard does not hold what its index says."""
    return DatasetError(Problem(str(file), f"found {found}", expected, "the source has changed: plan again", key=key))


_MOST_ROWS, _MOST_BYTES = 1000, 32 << 20


def pack_rows(rows: Iterable[tuple[str, Row]], schema: pa.Schema) -> Iterator[tuple[pa.Array, pa.Table]]:
    """Rows in tables of at most 1,000 rows and about 32 MiB of images, with the names of the images."""
    held: list[tuple[str, Row]] = []
    size = 0
    for name, row in rows:
        held.append((name, row))
        size += len(row.get("image", b""))
        if len(held) == _MOST_ROWS or size >= _MOST_BYTES:
            yield _pack(held, schema)
            held, size = [], 0
    if held:
        yield _pack(held, schema)


def _pack(rows: list[tuple[str, Row]], schema: pa.Schema) -> tuple[pa.Array, pa.Table]:
    columns = [pa.array([row.get(field.name) for _, row in rows], field.type) for field in schema]
    return pa.array([name for name, _ in rows], pa.large_string()), pa.table(columns, schema=schema)
