"""Rows of tables, value by value: quicker than columns for whoever reads rows one after another, or one in a thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import pyarrow as pa

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import RowEdit, rewrite_member
from corruptkit.formats.keys import make_keyer, strip_suffix
from corruptkit.formats.layout import Row, Shard, changed_source
from corruptkit.formats.table import Fields

_AT_ONCE = 1 << 20


def read_table_rows(tables: Iterable[pa.Table], fields: Fields, shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
    """The rows of the pieces of a shard's table, edits applied, each with its image's name; what is null has no field."""
    left, number = set(edits), shard.first_row
    for position, values in enumerate(chain.from_iterable(map(_row_values, _small_pieces(tables), repeat(shard)))):
        if position in shard.skip:
            continue
        row = _standard_row(values, fields, shard, number)
        edit = edits.get(row["key"])
        if edit is not None:
            left.discard(row["key"])
            _edit_row(row, edit, shard)
        yield _image_name(values, fields), row
        number += 1
    if left:
        raise changed_source(shard.file, min(left), "the row is not there")


def _small_pieces(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Pieces of about 1 MiB: bytes that are copied for one row can then be freed before many others are."""
    for table in tables:
        step = max(1, _AT_ONCE * len(table) // max(table.nbytes, 1))
        for start in range(0, len(table), step):
            yield table.slice(start, step)


def _row_values(table: pa.Table, shard: Shard) -> list[dict[str, Any]]:
    with _explain_text(shard):
        rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@contextmanager
def _explain_text(shard: Shard) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        found = f"a text that is not UTF-8: {error.object[:40]!r}"
        raise DatasetError(Problem(str(shard.file), found, "text in UTF-8", "mend the row")) from None


def read_table_row(table: pa.Table, row: int, fields: Fields, shard: Shard, edit: RowEdit | None) -> Row:
    """A row of a shard's table, its edit applied; it is row `shard.first_row` of the data set."""
    with _explain_text(shard):
        values = {name: column[row].as_py() for name, column in zip(table.column_names, table.columns, strict=True)}
    found = _standard_row(values, fields, shard, shard.first_row)
    if edit is not None:
        _edit_row(found, edit, shard)
    return found


def _standard_row(values: Mapping[str, Any], fields: Fields, shard: Shard, number: int) -> Row:
    """The values of a table's row under the names of rows: key, image, label, caption, then the others."""
    row: Row = {"key": row_key(values, fields, shard, number)}
    image = values[fields.image] if fields.image else None
    for name, value in (
        ("image", image["bytes"] if isinstance(image, dict) else image),
        ("label", values[fields.label] if fields.label else None),
        ("caption", values[fields.caption] if fields.caption else None),
        *((name, values[name]) for name in fields.others),
    ):
        if value is not None:
            row[name] = value
    return row


def row_key(values: Mapping[str, Any], fields: Fields, shard: Shard, number: int) -> str:
    """The key of a row whose values are at hand. Raises DatasetError where it has none."""
    rule, path = shard.layout.key_rule, _image_name(values, fields)
    if fields.key:
        key = values[fields.key]
    else:
        key = make_keyer(rule, str(shard.file))(strip_suffix(path), shard.name, number) if path or rule == "ordinal" else None
    if key is None:
        raise changed_source(shard.file, f"row {number}", "no key")
    return str(key)


def _image_name(values: Mapping[str, Any], fields: Fields) -> str:
    """The path that a row's image is stored with, "" where there is none."""
    image = values[fields.image] if fields.image else None
    return (image.get("path") or "") if isinstance(image, dict) else ""


def _edit_row(row: Row, edit: RowEdit, shard: Shard) -> None:
    """Put the new values of an edit into a row that holds the old ones; else it is refused."""
    for field, (old, new) in edit.items():
        if str(row.get(field)) != old:
            raise changed_source(shard.file, row["key"], f"the {field} {row.get(field)!r:.80}", f"{old!r:.80}")
        row[field] = int(new) if field == "label" else new
    if isinstance(row.get("json"), bytes):
        row["json"] = rewrite_member("json", row["json"], edit, shard.layout.columns)
