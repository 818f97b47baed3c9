"""Tables of texts by key and level, as a rewrite takes them: read, checked, and looked up. SPEC.md sections 4 and 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from corruptkit.corruptions.rows import Ints
from corruptkit.digest import canonical_rows, sha256_hex

SCHEMA = pa.schema([("key", pa.large_string()), ("level", pa.int64()), ("text", pa.large_string())])
_CONTROL = r"[\x00-\x1f\x7f-\x{9f}]"
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True)
class Texts:
    """A text for each of some (key, level): `rows` in ascending (key bytes, level), and the SHA-256 of their canonical form."""

    rows: pa.Table = field(compare=False, repr=False)
    digest: str

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Check, sort and digest a table. Raises ValueError that says what is wrong."""
        table = _sort_rows(_check_cells(_check_columns(table)))
        return cls(table, sha256_hex(_canonical(table)))

    def canonical(self) -> bytes:
        """The JSON array of the rows, which the identity names by its digest."""
        return _canonical(self.rows)

    def find(self, keys: pa.Array, levels: Ints) -> pa.Array:
        """The text at each (key, level), null where the table has none."""
        known = self.rows["key"].combine_chunks().dictionary_encode()  # in order of appearance, which is ascending
        cells = (known.indices.to_numpy().astype(np.int64) << 32) + self.rows["level"].to_numpy()
        codes = pc.fill_null(pc.index_in(keys, value_set=known.dictionary), -1).to_numpy().astype(np.int64)
        wanted = (codes << 32) + levels
        place = np.searchsorted(cells, wanted)
        absent = (codes < 0) | (np.append(cells, -1)[place] != wanted)
        return self.rows["text"].combine_chunks().take(pa.array(place, mask=absent))


def read_texts(path: Path) -> pa.Table:
    """The columns of a table on disk: Parquet by its suffix, else JSON lines."""
    try:
        return _read_parquet(path) if path.suffix == ".parquet" else _read_lines(path)
    except OSError as error:
        raise ValueError(f"cannot read '{path}': {error.strerror}; name a file that can be read") from None
    except pa.ArrowException as error:
        what = "Parquet" if path.suffix == ".parquet" else "JSON lines with the fields key, level and text"
        said = " ".join(str(error).split())
        raise ValueError(f"'{path}' is not {what} ({said:.120}); mend the file") from None


def _read_parquet(path: Path) -> pa.Table:
    # Without threads of its own: a thread that still runs when a short command ends makes the process abort.
    with path.open("rb") as source, pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read([name for name in file.schema_arrow.names if name in SCHEMA.names], use_threads=False)


def _read_lines(path: Path) -> pa.Table:
    size = path.stat().st_size
    read = pa.json.ReadOptions(use_threads=False, block_size=min(_LONGEST_LINE, size + 1))
    # Stated types: a text that looks like a date stays a text.
    parse = pa.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
    with path.open("rb") as file:
        return pa.json.read_json(file, read, parse) if size else SCHEMA.empty_table()


def list_texts(rows: Sequence[Any]) -> pa.Table:
    """The columns of a list of [key, level, text]."""
    kinds = {tuple(map(type, row)) if isinstance(row, list | tuple) else type(row) for row in rows}
    if kinds - {(str, int, str)}:
        bad = next(row for row in rows if not isinstance(row, list | tuple) or tuple(map(type, row)) != (str, int, str))
        raise ValueError(f"found {bad!r:.80} as a row of the table, expected [key, level, text]: a text, an integer and a text")
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    try:
        return pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], SCHEMA)
    except UnicodeEncodeError as error:
        raise ValueError(f"found {str(error.object)!r:.80} in the table, expected no lone surrogate") from None
    except OverflowError:
        raise ValueError("found a level beyond 64 bits in the table, expected levels of 1, 2, ... below 2^32") from None


def _check_columns(table: pa.Table) -> pa.Table:
    """The three columns, cast to their types; others are left out."""
    columns = []
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if table.column_names.count(name) != 1:
            raise ValueError(f"found a table with {table.column_names.count(name)} columns '{name}', expected key, level and text once")
        column = table[name]
        own = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        fits = pa.types.is_integer(own) if name == "level" else any(is_kind(own) for is_kind in _TEXTS)
        if not fits and len(column) > column.null_count:
            raise ValueError(f"found a column '{name}' of {own}, expected {'integers' if name == 'level' else 'text'}")
        if column.null_count:
            raise ValueError(f"found {column.null_count} rows of the table without a {name}, expected one in every row")
        columns.append(_cast(column, kind, name))
    return pa.table(columns, SCHEMA)


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        column.validate(full=True)  # text from a file may be no UTF-8
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"found a column '{name}' that cannot be used ({said:.100}); mend the table") from None


def _check_cells(table: pa.Table) -> pa.Table:
    keys, levels = table["key"], table["level"]
    bad = pc.or_(pc.equal(keys, ""), pc.match_substring_regex(keys, _CONTROL))
    if pc.any(bad).as_py():
        key = keys.filter(bad)[0].as_py()
        raise ValueError(f"found {key!r:.80} as a key of the table, expected keys that are not empty and hold no control characters")
    bad = pc.or_(pc.less(levels, 1), pc.greater_equal(levels, 1 << 32))
    if pc.any(bad).as_py():
        key, level = (table[name].filter(bad)[0].as_py() for name in ("key", "level"))
        raise ValueError(f"found level {level} of {key!r:.80} in the table, expected levels of 1, 2, ... below 2^32")
    return table


def _sort_rows(table: pa.Table) -> pa.Table:
    """The rows in ascending (key bytes, level), each cell once."""
    table = table.take(pc.sort_indices(table, [("key", "ascending"), ("level", "ascending")])).combine_chunks()
    keys, levels = table["key"].combine_chunks(), table["level"].to_numpy()
    if len(keys) < 2:
        return table
    twice = np.flatnonzero(np.asarray(pc.equal(keys[1:], keys[:-1])) & (levels[1:] == levels[:-1]))
    if len(twice):
        found = f"{keys[int(twice[0])].as_py()!r:.80} at level {levels[twice[0]]} twice in the table"
        raise ValueError(f"found {found}, expected one text for each key and level")
    return table


def _canonical(table: pa.Table) -> bytes:
    return canonical_rows(*(table[name].combine_chunks() for name in SCHEMA.names))
