"""Rows as members of a tar: how a row of another layout becomes a WebDataset sample."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.keys import encode_key
from corruptkit.formats.layout import Row
from corruptkit.formats.tar import BLOCK, make_header, pad_block

_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9][a-z0-9_-]*)*")
_TAKEN = ("txt", "cls")


def row_members(row: Row, image: str, file: str) -> Iterator[tuple[str, bytes]]:
    """Each (suffix, content) of a row: image, cls, txt, columns of bytes under their names, all other columns in one .json.

    Raises DatasetError where a column cannot be one.
    """
    if "image" in row:
        yield image, row["image"]
    if "label" in row:
        yield "cls", str(row["label"]).encode()
    if "caption" in row:
        yield "txt", row["caption"].encode()
    others = {name: value for name, value in row.items() if name not in ("key", "image", "label", "caption")}
    for name, value in others.items():
        if isinstance(value, bytes):
            if not _SUFFIX.fullmatch(name) or name in (*_TAKEN, image):
                do = "rename the column, or use --format parquet or arrow"
                raise DatasetError(Problem(file, f"a column '{name}' of bytes", "a name that can be a member's suffix", do, key=row["key"]))
            yield name, value
    plain = {name: _plain(value, name, file) for name, value in others.items() if not isinstance(value, bytes)}
    if plain:
        suffix = "columns.json" if "json" in others else "json"
        yield suffix, json.dumps(plain, ensure_ascii=False, sort_keys=True, allow_nan=False, default=str).encode()


def _plain(value: Any, name: str, file: str) -> Any:
    """A value as JSON holds it: numbers that are none become null."""
    if isinstance(value, bytes):
        do = "remove the column, or use --format parquet or arrow"
        raise DatasetError(Problem(file, f"bytes inside the column '{name}'", "values that JSON can hold", do))
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, dict):
        return {str(key): _plain(part, name, file) for key, part in value.items()}
    return [_plain(part, name, file) for part in value] if isinstance(value, list) else value


def write_rows(rows: Iterable[Row], image: str, file: str, out: BinaryIO) -> None:
    """Write rows as a tar of samples, each member under the encoded key; the bytes depend on the rows alone."""
    for row in rows:
        stem = encode_key(row["key"])
        for suffix, content in row_members(row, image, file):
            out.write(make_header(f"{stem}.{suffix}", len(content)))
            out.write(pad_block(content))
    out.write(bytes(2 * BLOCK))
