"""Parquet shards, as the Hub holds them: read by row groups, and written with a page index and content-defined chunks.

Only the columns of conditions are read for an index. A variant of a Parquet source keeps its row groups, columns, types and
metadata; the other columns are written anew with the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.cells import read_table_row, read_table_rows
from corruptkit.formats.conditions import RowEdit
from corruptkit.formats.editing import Cursor, edited_tables, fit_table, standard_tables
from corruptkit.formats.layout import Layout, Row, Scan, Shard, Spot
from corruptkit.formats.table import (
    Fields,
    check_names,
    default_rule,
    find_fields,
    find_image,
    has_path,
    lacks_bytes,
    needs_images,
    scan_tables,
)
from corruptkit.remote import STREAM, RemotePath

_PIECE_ROWS, _PIECE_BYTES = 1024, 32 << 20  # read at a time, at most and about
_LARGEST_GROUP = 1 << 30  # bytes of a row group that is read as one piece: of 2 GiB, pyarrow makes no nested column
_BUFFER = 4 << 20
# As `datasets` writes them, so that a chunk store finds what stays; bytes.
_CHUNKS = {"min_chunk_size": 256 << 10, "max_chunk_size": 1 << 20, "norm_level": 0}


@contextmanager
def _open_file(file: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what pyarrow says of a broken one in one line."""
    try:
        with file.open("rb") as content:
            # No threads that read ahead: they can outlive the interpreter and abort it at exit.
            parquet = pq.ParquetFile(content, pre_buffer=False, buffer_size=STREAM if isinstance(file, RemotePath) else _BUFFER)
            check_names(parquet.schema_arrow, file)
            yield parquet
    except pa.ArrowNotImplementedError as error:
        found = f"pyarrow cannot read it: {str(error).splitlines()[0]:.100}"
        do = "write the shard anew, in smaller row groups and without nested columns of 2 GiB"
        raise DatasetError(Problem(str(file), found, do=do)) from None
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # UnicodeDecodeError: of a column's name
        found = f"it cannot be read: {str(error).splitlines()[0]:.100}"
        raise DatasetError(Problem(str(file), found, "a whole Parquet file", "fetch or write the shard anew")) from None


def _read_pieces(parquet: pq.ParquetFile, groups: list[int] | None = None, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """A file, or some of its row groups and columns, piece by piece."""
    batches = parquet.iter_batches(_piece_rows(parquet), row_groups=groups, columns=columns, use_threads=False)
    return (pa.Table.from_batches([batch]) for batch in batches)


def _piece_rows(parquet: pq.ParquetFile) -> int:
    """How many rows are read at a time: those that fill a piece in the row group whose rows are the largest."""
    groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
    largest = max((group.total_byte_size / group.num_rows for group in groups if group.num_rows), default=0)
    return max(1, min(_PIECE_ROWS, int(_PIECE_BYTES / max(largest, 1))))


def _read_whole(parquet: pq.ParquetFile, group: int) -> pa.Table:
    """A row group."""
    if parquet.metadata.row_group(group).total_byte_size < _LARGEST_GROUP:
        return parquet.read_row_group(group, use_threads=False)
    return pa.concat_tables(_read_pieces(parquet, [group]))


def read_schema(file: Path) -> pa.Schema:
    """The Arrow schema of a shard, with its metadata."""
    with _open_file(file) as parquet:
        return parquet.schema_arrow


def find_rule(file: Path) -> str:
    """The key rule of a source that states none."""
    with _open_file(file) as parquet:
        schema = parquet.schema_arrow
        image = find_image(schema)
        batches = parquet.iter_batches(1, columns=[f"{image}.path"], use_threads=False) if has_path(schema, image) else iter(())
        first = next((batch[image][0].as_py() for batch in batches if len(batch)), None)
    return default_rule(schema, paths=first is not None and first["path"] is not None)


def scan_shard(shard: Shard, *, exclude: bool = False) -> Scan:
    """A shard's rows of the index, from its columns of keys and conditions."""
    with _open_file(shard.file) as parquet:
        schema = parquet.schema_arrow
        fields = find_fields(schema, shard.layout, str(shard.file))
        wanted = fields.needed(schema)
        if wanted:
            batches = parquet.iter_batches(1 << 17, columns=wanted, use_threads=False)
            pieces: Iterator[pa.Table] = (pa.Table.from_batches([batch]) for batch in batches)
        else:  # the order alone names the rows
            pieces = iter([pa.table({"": pa.nulls(parquet.metadata.num_rows)})])
        empty = _find_nulls(parquet, fields.image) if needs_images(fields, shard) else np.zeros(0, np.int64)
        return scan_tables(pieces, fields, shard, schema, empty, exclude=exclude)


def find_nulls(shard: Shard, name: str) -> Any:
    """The positions of the rows that hold nothing in a column of bytes, or in their image."""
    with _open_file(shard.file) as parquet:
        column = find_fields(parquet.schema_arrow, shard.layout, str(shard.file)).image if name == "image" else name
        return _find_nulls(parquet, column) if column in parquet.schema_arrow.names else np.arange(parquet.metadata.num_rows)


def _find_nulls(parquet: pq.ParquetFile, column: str) -> Any:
    """The ascending positions of rows without bytes; only row groups that count some, or do not count them, are read."""
    leaf = f"{column}.bytes" if pa.types.is_struct(parquet.schema_arrow.field(column).type) else column
    paths = (f"{parquet.schema.column(number).path}." for number in range(parquet.metadata.num_columns))
    place = next(number for number, path in enumerate(paths) if path.startswith(f"{leaf}."))
    found, start = [np.zeros(0, np.int64)], 0
    for number in range(parquet.num_row_groups):
        counts = parquet.metadata.row_group(number).column(place).statistics
        if counts is None or not counts.has_null_count or counts.null_count:
            masks = [lacks_bytes(piece[column]) for piece in _read_pieces(parquet, [number], [leaf])]
            found.append(np.flatnonzero(np.concatenate([np.zeros(0, bool), *masks])) + start)
        start += parquet.metadata.row_group(number).num_rows
    return np.concatenate(found)


def read_tables(shard: Shard, edits: Mapping[str, RowEdit], schema: pa.Schema) -> Iterator[tuple[pa.Array, pa.Table]]:
    """The rows of a shard in pieces, edits applied, with the paths of their images."""
    with _open_file(shard.file) as parquet:
        fields = find_fields(parquet.schema_arrow, shard.layout, str(shard.file))
        for paths, table in standard_tables(_read_pieces(parquet), fields, shard, edits):
            yield paths, fit_table(table, schema, shard.file)


def read_rows(shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
    """Every row of a shard, edits applied, with its image's name."""
    with _open_file(shard.file) as parquet:
        fields = find_fields(parquet.schema_arrow, shard.layout, str(shard.file))
        yield from read_table_rows(_read_pieces(parquet), fields, shard, edits)


def read_row(shard: Shard, spot: Spot, edit: RowEdit | None) -> Row:
    """One row by its place: its row group is read, and kept for the next row."""
    stat = shard.file.stat()
    group, start = 0, 0
    for rows in _group_rows(shard.file, stat.st_mtime_ns):
        if spot.position < start + rows:
            break
        group, start = group + 1, start + rows
    table, fields = _read_group(shard.file, group, stat.st_mtime_ns, shard.layout)
    return read_table_row(table, spot.position - start, fields, shard, edit)


@lru_cache(maxsize=1024)
def _group_rows(file: Path, mtime_ns: int) -> list[int]:  # noqa: ARG001 - a changed file is another one
    with _open_file(file) as parquet:
        return [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]


@lru_cache(maxsize=2)
def _read_group(file: Path, group: int, mtime_ns: int, layout: Layout) -> tuple[pa.Table, Fields]:  # noqa: ARG001 - the same
    with _open_file(file) as parquet:
        return _read_whole(parquet, group), find_fields(parquet.schema_arrow, layout, str(file))


def other_types(shard: Shard, others: tuple[str, ...]) -> dict[str, pa.DataType]:
    """The types of the other columns."""
    schema = read_schema(shard.file)
    return {name: schema.field(name).type for name in others}


def rewrite_shard(shard: Shard, edits: Mapping[str, RowEdit], out: BinaryIO) -> int:
    """Write a shard with edits applied: the same row groups, columns, types and metadata, compressed as they were.

    Returns how many rows still tell an old caption.
    """
    with _open_file(shard.file) as parquet:
        cursor = Cursor(find_fields(parquet.schema_arrow, shard.layout, str(shard.file)), shard, edits)
        groups = (_read_whole(parquet, number) for number in range(parquet.num_row_groups))
        with pq.ParquetWriter(out, parquet.schema_arrow, **_same_options(parquet)) as writer:
            for table in edited_tables(groups, cursor):
                writer.write_table(table, row_group_size=max(len(table), 1))
    return cursor.leftovers


def _same_options(parquet: pq.ParquetFile) -> dict[str, Any]:
    """The options under which a file's columns were written."""
    if not parquet.num_row_groups:
        return _options({}, [])
    group = parquet.metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    names = {column.path_in_schema: "none" if column.compression == "UNCOMPRESSED" else column.compression.lower() for column in columns}
    return _options(names, [column.path_in_schema for column in columns if column.has_dictionary_page])


def _options(compression: dict[str, str], dictionaries: list[str]) -> dict[str, Any]:
    return {
        "compression": compression or "zstd",
        "use_dictionary": dictionaries or False,
        "write_page_index": True,
        "use_content_defined_chunking": _CHUNKS,
    }


def write_tables(tables: Iterator[pa.Table], schema: pa.Schema, out: BinaryIO) -> None:
    """Write tables, a row group each: images as they are, everything else compressed."""
    leaves = [leaf for field in schema for leaf in _leaves(field)]
    compression = {path: "none" if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else "zstd" for path, kind in leaves}
    with pq.ParquetWriter(out, schema, **_options(compression, ["label"] if "label" in schema.names else [])) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(len(table), 1))


def _leaves(field: pa.Field, before: str = "") -> Iterator[tuple[str, pa.DataType]]:
    """Each column of a file that an Arrow field becomes, by path."""
    path = f"{before}{field.name}"
    if pa.types.is_struct(field.type):
        for child in field.type:
            yield from _leaves(child, f"{path}.")
    elif pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        yield from _leaves(pa.field("element", field.type.value_type), f"{path}.list.")
    else:
        yield path, field.type
