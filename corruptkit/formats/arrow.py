"""Arrow shards, as `datasets.Dataset.save_to_disk` writes them: IPC streams, mapped into memory, with state.json beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.cells import read_table_row, read_table_rows
from corruptkit.formats.conditions import RowEdit
from corruptkit.formats.editing import Cursor, edited_tables, fit_table, standard_tables
from corruptkit.formats.layout import Layout, Row, Scan, Shard, Spot
from corruptkit.formats.splits import stated_split
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
from corruptkit.names import hub_name

SAVED_SPLITS = "dataset_dict.json"  # beside the folders that a DatasetDict is saved to
_FILE_MAGIC = b"ARROW1"  # an IPC file, where others write streams


@contextmanager
def _explain(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:  # UnicodeDecodeError: of a column's name
        found = f"it cannot be read: {str(error).splitlines()[0]:.100}"
        raise DatasetError(Problem(str(file), found, "a whole Arrow IPC file", "fetch or write the shard anew")) from None


@lru_cache(maxsize=256)
def _map_table(file: Path, mtime_ns: int) -> pa.Table:  # noqa: ARG001 - a changed file is another one
    """A shard as a table whose columns lie in the mapped file."""
    with _explain(file):
        mapped = pa.memory_map(str(file))
        is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        mapped.seek(0)
        table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(mapped).read_all()
        check_names(table.schema, file)
        for name, column in zip(table.column_names, table.columns, strict=True):
            for chunk in column.chunks:
                _check_offsets(chunk, name)
        return table


def _check_offsets(values: pa.Array, name: str) -> None:
    """Refuse values that would be read from outside of the file; whether a text is UTF-8 is asked of each row, later."""
    if pa.types.is_struct(values.type):
        for number in range(values.type.num_fields):
            _check_offsets(values.field(number), name)
    raw = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(values.type)
    try:
        (values if raw is None else values.view(raw)).validate(full=raw is not None or not pa.types.is_struct(values.type))
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"the column '{name}': {error}") from None


def _table(shard: Shard) -> pa.Table:
    with _explain(shard.file):
        return _map_table(shard.file, shard.file.stat().st_mtime_ns)


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    return (pa.Table.from_batches([batch]) for batch in table.to_batches())


def read_schema(file: Path) -> pa.Schema:
    """The Arrow schema of a shard, with its metadata."""
    with _explain(file):
        return _map_table(file, file.stat().st_mtime_ns).schema


def find_rule(file: Path) -> str:
    """The key rule of a source that states none."""
    with _explain(file):
        table = _map_table(file, file.stat().st_mtime_ns)
    image = find_image(table.schema)
    paths = has_path(table.schema, image) and len(table) > 0 and (table[image][0].as_py() or {}).get("path") is not None
    return default_rule(table.schema, paths=paths)


def scan_shard(shard: Shard, *, exclude: bool = False) -> Scan:
    """A shard's rows of the index; pages of images are never touched."""
    table = _table(shard)
    fields = find_fields(table.schema, shard.layout, str(shard.file))
    empty = np.flatnonzero(lacks_bytes(table[fields.image])) if needs_images(fields, shard) else np.zeros(0, np.int64)
    return scan_tables(_pieces(table), fields, shard, table.schema, empty, exclude=exclude)


def find_nulls(shard: Shard, name: str) -> Any:
    """The positions of the rows that hold nothing in a column of bytes, or in their image."""
    table = _table(shard)
    column = find_fields(table.schema, shard.layout, str(shard.file)).image if name == "image" else name
    return np.flatnonzero(lacks_bytes(table[column])) if column in table.column_names else np.arange(len(table))


def read_tables(shard: Shard, edits: Mapping[str, RowEdit], schema: pa.Schema) -> Iterator[tuple[pa.Array, pa.Table]]:
    """The rows of a shard in pieces, edits applied, with the paths of their images."""
    table = _table(shard)
    fields = find_fields(table.schema, shard.layout, str(shard.file))
    for paths, piece in standard_tables(_pieces(table), fields, shard, edits):
        yield paths, fit_table(piece, schema, shard.file)


def read_rows(shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
    """Every row of a shard, edits applied, with its image's name."""
    table = _table(shard)
    fields = find_fields(table.schema, shard.layout, str(shard.file))
    yield from read_table_rows(_pieces(table), fields, shard, edits)


def read_row(shard: Shard, spot: Spot, edit: RowEdit | None) -> Row:
    """One row by its place."""
    table, fields = _open_table(shard.file, shard.file.stat().st_mtime_ns, shard.layout)
    return read_table_row(table, spot.position, fields, shard, edit)


@lru_cache(maxsize=256)
def _open_table(file: Path, mtime_ns: int, layout: Layout) -> tuple[pa.Table, Fields]:
    table = _map_table(file, mtime_ns)
    return table, find_fields(table.schema, layout, str(file))


def other_types(shard: Shard, others: tuple[str, ...]) -> dict[str, pa.DataType]:
    """The types of the other columns."""
    schema = _table(shard).schema
    return {name: schema.field(name).type for name in others}


def rewrite_shard(shard: Shard, edits: Mapping[str, RowEdit], out: BinaryIO) -> int:
    """Write a shard with edits applied: the same batches, columns, types and metadata. Returns how many rows still tell an old caption."""
    table = _table(shard)
    cursor = Cursor(find_fields(table.schema, shard.layout, str(shard.file)), shard, edits)
    write_tables(edited_tables(_pieces(table), cursor), table.schema, out)
    return cursor.leftovers


def write_tables(tables: Iterator[pa.Table], schema: pa.Schema, out: BinaryIO) -> None:
    """Write tables as an IPC stream, a batch each."""
    with pa.ipc.new_stream(out, schema) as writer:
        for table in tables:
            # A slice keeps the buffers of the whole: what is written must be a piece by itself.
            writer.write_table(table.combine_chunks() if table.num_rows else table)


def read_state(folder: Path) -> tuple[str, list[str]]:
    """The split that a folder of save_to_disk states, "" where it states none, and the names of its shards in order."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_bytes())
        names = [entry["filename"] for entry in state["_data_files"]]
        split = state.get("_split") or ""
        if not all(isinstance(name, str) for name in [split, *names]) or any("/" in name or name.startswith(".") for name in names):
            raise ValueError
    except FileNotFoundError:
        return "", []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found, expected = "it does not list the shards of this folder", "what datasets' save_to_disk writes"
        raise DatasetError(Problem(str(path), found, expected, "mend it or remove it")) from None
    return stated_split(split, str(path)) if split else "", names


def read_splits(folder: Path) -> list[str]:
    """The splits of a saved DatasetDict, which are the names of its folders."""
    path = folder / SAVED_SPLITS
    try:
        names = json.loads(path.read_bytes())["splits"]
        if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        found, expected = "it does not list the splits of this folder", "what datasets' save_to_disk writes"
        raise DatasetError(Problem(str(path), found, expected, "mend it, or name the folder of a split")) from None
    return names


def describe_state(names: Sequence[str], split: str, mark: str) -> bytes:
    """A state.json. `mark` stands for the content: `datasets` keeps what it computes under it, which no two variants may share."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": mark,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": hub_name(split),
    }
    return json.dumps(state, indent=2, sort_keys=True).encode()
