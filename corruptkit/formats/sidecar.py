"""Files beside shards: img2dataset's Parquet, where the clean conditions hide as well, and files that hold none."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import FIELDS, Columns, FieldName, RowEdit, still_tells, telling_text

# Licences, and the counts that loaders read (timm, img2dataset, open_clip); no condition stands in them.
_LICENCES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "ATTRIBUTION*")
_COUNTS = ("*_stats.json", "_info.json", "info.json", "sizes.json", "__len__")
_TEXTS = (pa.string(), pa.large_string())


def carried_files(folder: Path, converted: bool = False) -> list[Path]:  # noqa: FBT001, FBT002 - the one question there is
    """The files of a source's folder that a variant copies as they are, by name; counts speak of the source's own shards."""
    patterns = _LICENCES if converted else (*_LICENCES, *_COUNTS)
    return sorted(path for path in folder.iterdir() if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns))


def sidecar_of(shard: Path) -> Path | None:
    """The Parquet file that img2dataset wrote beside a shard."""
    path = shard.with_suffix(".parquet")
    return path if path.is_file() else None


def check_sidecar(shard: Path) -> None:
    """Refuse a shard's side-car that is no Parquet file, before anything is written because of it."""
    path = sidecar_of(shard)
    if path is not None:
        try:
            pq.read_metadata(path)
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: of a name that is no UTF-8
            raise _unreadable(path, error) from None


def name_edits(path: Path, stems: Mapping[str, str], edits: Mapping[str, RowEdit]) -> dict[str, RowEdit]:
    """Edits (by key) by the base name of their samples, which is what a side-car knows them by; refused where two share one."""
    keys: dict[str, str] = {}
    for key in edits:
        name = stems[key].rpartition("/")[2]
        if keys.setdefault(name, key) != key:
            raise _unfit(path, f"the samples '{stems[keys[name]]}' and '{stems[key]}' are both '{name}' there", "one sample of each name")
    return {name: edits[key] for name, key in keys.items()}


def rewrite_pair(path: Path, below: Mapping[str, RowEdit], both: Mapping[str, RowEdit], columns: Columns) -> tuple[bytes, bytes]:
    """A side-car as the source reads, with the edits of an overlay below, and as the variant does; edits by sample key."""
    content = path.read_bytes()
    return rewrite_sidecar(path, below, columns) or content, rewrite_sidecar(path, both, columns) or content


def rewrite_sidecar(path: Path, edits: Mapping[str, RowEdit], columns: Columns) -> bytes | None:
    """A side-car's bytes with the edits (by sample key) in its caption and label columns; None where none applies."""
    try:
        with path.open("rb") as content:
            # As in overlay.py: no threads that read ahead.
            file = pq.ParquetFile(content, pre_buffer=False)
            table = file.read(use_threads=False)
        table.validate(full=True)  # texts that are no UTF-8 among others
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: of a name that is no UTF-8
        raise _unreadable(path, error) from None
    names = {field: columns.json_field(field) for field in FIELDS if columns.json_field(field) in table.column_names}
    if not edits or not names:
        return None
    keys = _read_keys(path, table, edits)
    changed = table
    for field, name in names.items():
        column = _edit_column(path, keys, table[name], field, edits)
        changed = changed.set_column(table.column_names.index(name), table.schema.field(name), column)
    if changed.equals(table):
        return None
    codec = file.metadata.row_group(0).column(0).compression.lower()
    out = pa.BufferOutputStream()
    pq.write_table(changed, out, compression="none" if codec == "uncompressed" else codec)
    return bytes(out.getvalue())


def _unreadable(path: Path, error: Exception) -> DatasetError:
    found = f"it cannot be read: {str(error).splitlines()[0]:.100}"
    return DatasetError(Problem(str(path), found, "img2dataset's Parquet", "fetch it anew or remove it"))


def _read_keys(path: Path, table: pa.Table, edits: Mapping[str, RowEdit]) -> list[str]:
    """The key of each row. Every edited row must be found once: what is not found would keep its clean condition."""
    kind = table.schema.field("key").type if "key" in table.column_names else None
    if kind not in _TEXTS:
        raise _unfit(path, "no column 'key'" if kind is None else f"keys of type {kind}", "keys as text, to find the rows that change")
    keys: list[str] = table["key"].to_pylist()
    counts = Counter(key for key in keys if key in edits)
    if wrong := sorted(key for key in edits if counts[key] != 1):
        raise _unfit(path, f"{counts[wrong[0]]} rows of the key '{wrong[0]}'", "one row of each sample")
    return keys


def _unfit(path: Path, found: str, expected: str) -> DatasetError:
    return DatasetError(Problem(str(path), found, expected, "mend it or move it away: it would keep clean conditions"))


def _edit_column(path: Path, keys: list[str], column: pa.ChunkedArray, field: FieldName, edits: Mapping[str, RowEdit]) -> pa.ChunkedArray:
    textual = column.type in _TEXTS
    if not textual and not (field == "label" and pa.types.is_integer(column.type)):
        raise _unfit(path, f"a {field} of type {column.type}", "text" if field == "caption" else "an integer or text")
    values = column.to_pylist()
    for row, key in enumerate(keys):
        edit = edits.get(key, {})
        if field in edit and values[row] is not None:
            new = edit[field][1]
            values[row] = int(new) if pa.types.is_integer(column.type) else new
    try:
        return pa.chunked_array([pa.array(values, column.type)])
    except (pa.ArrowInvalid, OverflowError):
        do = "cast it to int64, or move the file away: it would keep clean conditions"
        raise DatasetError(Problem(str(path), f"a {field} of type {column.type} cannot hold every class", do=do)) from None


def sidecar_leftovers(content: bytes, edits: Mapping[str, RowEdit], columns: Columns) -> set[str]:
    """Those of the edits (by sample key) whose row in a side-car still holds the old caption, in a column that is not the caption's."""
    told = [key for key, edit in edits.items() if telling_text(edit)]
    table = pq.ParquetFile(io.BytesIO(content), pre_buffer=False).read(use_threads=False)
    kind = table.schema.field("key").type if "key" in table.column_names else None
    if not told or kind not in _TEXTS:
        return set()
    rows = table.filter(pc.is_in(table["key"], value_set=pa.array(told, kind)))
    others = rows.drop_columns([name for name in ("key", columns.json_field("caption")) if name in rows.column_names])
    pairs = zip(rows["key"].to_pylist(), others.to_pylist(), strict=True)
    return {key for key, values in pairs if still_tells(values.values(), edits[key])}
