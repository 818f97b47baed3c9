"""Files beside shards: img2dataset's Parquet, where the clean conditions hide as well, and files that hold none."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import FIELDS, Columns, FieldName, RowEdit

# Licences and the counts that loaders read (timm, img2dataset, open_clip); no condition stands in them.
_CARRIED = (
    "LICENSE*",
    "LICENCE*",
    "COPYING*",
    "NOTICE*",
    "ATTRIBUTION*",
    "*_stats.json",
    "_info.json",
    "info.json",
    "sizes.json",
    "__len__",
)


def carried_files(folder: Path) -> list[Path]:
    """The files of a source's folder that a variant copies as they are, by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _CARRIED))


def sidecar_of(shard: Path) -> Path | None:
    """The Parquet file that img2dataset wrote beside a shard."""
    path = shard.with_suffix(".parquet")
    return path if path.is_file() else None


def rewrite_pair(path: Path, below: Mapping[str, RowEdit], own: Mapping[str, RowEdit], columns: Columns) -> tuple[bytes, bytes]:
    """A side-car as the source reads, with the edits of an overlay below, and as the variant does; edits by sample key."""
    content = path.read_bytes()
    both = {**below, **{stem: {**below.get(stem, {}), **edit} for stem, edit in own.items()}}
    return rewrite_sidecar(path, below, columns) or content, rewrite_sidecar(path, both, columns) or content


def rewrite_sidecar(path: Path, edits: Mapping[str, RowEdit], columns: Columns) -> bytes | None:
    """A side-car's bytes with the edits (by sample key) in its caption and label columns; None where none applies."""
    try:
        with path.open("rb") as content:
            file = pq.ParquetFile(content)
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        found = f"it cannot be read: {str(error).splitlines()[0]:.100}"
        raise DatasetError(Problem(str(path), found, "img2dataset's Parquet", "fetch it anew or remove it")) from None
    fields = [columns.json_field(field) for field in FIELDS if columns.json_field(field) in table.column_names]
    if not edits or not fields:
        return None
    if "key" not in table.column_names:
        found, expected = f"a column '{fields[0]}' and no column 'key'", "keys, to find the rows that change"
        raise DatasetError(Problem(str(path), found, expected, "move it away: it would keep the clean conditions"))
    keys = table["key"].cast(pa.string()).to_pylist()
    changed = table
    for field in FIELDS:
        name = columns.json_field(field)
        if name in table.column_names:
            column = _edit_column(keys, table[name], field, edits)
            changed = changed.set_column(table.column_names.index(name), table.schema.field(name), column)
    if changed.equals(table):
        return None
    codec = file.metadata.row_group(0).column(0).compression.lower()
    out = pa.BufferOutputStream()
    pq.write_table(changed, out, compression="none" if codec == "uncompressed" else codec)
    return bytes(out.getvalue())


def _edit_column(keys: list[str], column: pa.ChunkedArray, field: FieldName, edits: Mapping[str, RowEdit]) -> pa.ChunkedArray:
    values = column.to_pylist()
    for row, key in enumerate(keys):
        edit = edits.get(key, {})
        if field in edit and values[row] is not None:
            new = edit[field][1]
            values[row] = int(new) if pa.types.is_integer(column.type) else new
    return pa.chunked_array([pa.array(values, column.type)])
