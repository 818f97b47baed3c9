"""Rows as members of a tar: how a row of another layout becomes a WebDataset sample."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.keys import encode_key
from corruptkit.formats.layout import ROW_FIELDS, Row
from corruptkit.formats.tar import BLOCK, make_header, pad_block

_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9][a-z0-9_-]*)*")
_TAKEN = ("txt", "cls")


def row_members(row: Row, image: str, file: str, schema: pa.Schema) -> Iterator[tuple[str, bytes]]:
    """Each (suffix, content) of a row: image, cls, txt, columns of bytes under their names, all other columns in one .json.

    The .json holds every other column of the rows' schema, null where the row has none: readers take the fields of one sample for
    those of all. Raises DatasetError where a column cannot be a member.
    """
    if "image" in row:
        yield image, row["image"]
    if "label" in row:
        yield "cls", str(row["label"]).encode()
    if "caption" in row:
        yield "txt", row["caption"].encode()
    others = [column for column in schema if column.name not in ROW_FIELDS]
    own = [column.name for column in others if holds_bytes(column.type)]
    for name in own:
        if not _SUFFIX.fullmatch(name) or name in (*_TAKEN, image):
            do = "rename the column, or use --format parquet or arrow"
            raise DatasetError(Problem(file, f"a column '{name}' of bytes", "a name that can be a member's suffix", do, key=row["key"]))
        if name in row:
            yield name, row[name]
    plain = {column.name: _plain(row.get(column.name), column.name, file) for column in others if column.name not in own}
    if plain:
        suffix = "columns.json" if "json" in schema.names else "json"
        yield suffix, json.dumps(plain, ensure_ascii=False, sort_keys=True, allow_nan=False, default=str).encode()


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether the values of a type are bytes, which become members of their own."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(plain) for check in checks)


def _plain(value: Any, name: str, file: str) -> Any:
    """A value as JSON holds it: numbers that are none become null."""
    if isinstance(value, bytes):
        do = "remove the column, or use --format parquet or arrow"
        raise DatasetError(Problem(file, f"bytes inside the column '{name}'", "values that JSON can hold", do))
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, dict):
        return {str(key): _plain(part, name, file) for key, part in value.items()}
    return [_plain(part, name, file) for part in value] if isinstance(value, (list, tuple)) else value


def write_rows(rows: Iterable[Row], image: str, file: str, schema: pa.Schema, out: BinaryIO) -> None:
    """Write rows as a tar of samples, each member under the encoded key; the bytes depend on the rows alone."""
    for row in rows:
        stem = encode_key(row["key"])
        for suffix, content in row_members(row, image, file, schema):
            out.write(make_header(f"{stem}.{suffix}", len(content)))
            out.write(pad_block(content))
    out.write(bytes(2 * BLOCK))
