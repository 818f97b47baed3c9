"""Tables with other conditions in their place, and tables as another format lays them out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import FIELDS, FieldName, RowEdit, rewrite_member, still_tells, telling_text
from corruptkit.formats.layout import Shard, changed_source
from corruptkit.formats.table import Fields, has_path, image_paths, one_array, read_keys


class Cursor:
    """Walks the pieces of a shard's table and knows, of each, which of its rows are rows of the data set, and their keys."""

    def __init__(self, fields: Fields, shard: Shard, edits: Mapping[str, RowEdit]) -> None:
        self._fields, self._shard, self._edits = fields, shard, edits
        self._position, self._first, self._left = 0, shard.first_row, set(edits)
        self.leftovers = 0  # edited rows that still tell their old caption in another column

    def edit(self, table: pa.Table) -> tuple[pa.Table, pa.Array, Any]:
        """The next piece with its edits applied, whole; the keys of its rows, and where they stand in it."""
        skip = [place - self._position for place in self._shard.skip]
        kept = np.setdiff1d(np.arange(len(table)), skip) if skip else np.arange(len(table))
        slim = _select_keys(table, self._fields)
        rows = slim if len(kept) == len(table) else slim.take(pa.array(kept))
        faults = dict[int, DatasetError]()
        keys = read_keys(rows, self._fields, self._shard, self._first, faults)
        for error in faults.values():
            raise error
        self._position += len(table)
        self._first += len(rows)
        if self._edits:
            edited = np.flatnonzero(np.asarray(pc.is_in(keys, value_set=pa.array(list(self._edits), pa.large_string()))))
            by_row = {int(kept[row]): (key, self._edits[key]) for row in edited if (key := keys[row].as_py())}
            self._left.difference_update(key for key, _ in by_row.values())
            table = edit_rows(table, by_row, self._fields, self._shard)
            fields = self._fields  # a column `caption` beside the one that is named is another column, and stays
            others = [name for name in table.column_names if name not in (fields.key, fields.image, fields.caption)]
            self.leftovers += count_leftovers(table.select(others), {row: edit for row, (_, edit) in by_row.items()})
        return table, keys, kept

    def finish(self) -> None:
        """Refuse edits whose rows were not there."""
        if self._left:
            raise changed_source(self._shard.file, min(self._left), "the row is not there")


def _select_keys(table: pa.Table, fields: Fields) -> pa.Table:
    """What keys are made of, so that no image is copied for them."""
    if fields.key or not has_path(table.schema, fields.image):
        return table.select([fields.key]) if fields.key else pa.table({"": pa.nulls(len(table))})
    paths = [pa.StructArray.from_arrays([part], ["path"]) for part in pc.struct_field(table[fields.image], "path").chunks]
    return pa.table(
        {fields.image: pa.chunked_array(paths, pa.struct([("path", table.schema.field(fields.image).type.field("path").type)]))}
    )


def count_leftovers(others: pa.Table, edits: Mapping[int, RowEdit]) -> int:
    """How many edited rows (edits by row) still tell their old caption in columns that are not the caption's."""
    told = {row: edit for row, edit in edits.items() if telling_text(edit)}
    rows = others.take(pa.array(list(told), pa.int64())).to_pylist() if others.column_names else []
    return sum(still_tells(values.values(), edit) for values, edit in zip(rows, told.values(), strict=bool(rows)))


def edit_rows(table: pa.Table, edits: Mapping[int, tuple[str, RowEdit]], fields: Fields, shard: Shard) -> pa.Table:
    """A table with its edits (key and edit by row) applied; types, order and metadata stay.

    Raises DatasetError where a row does not hold the old value, or the column's type does not hold the new one.
    """
    for field in FIELDS:
        mine = {row: (key, edit[field]) for row, (key, edit) in edits.items() if field in edit}
        if mine:
            table = _replace_cells(table, fields.label if field == "label" else fields.caption, field, mine, shard)
    if "json" in fields.others and pa.types.is_large_binary(table.schema.field("json").type):
        cells = {row: table["json"][row].as_py() for row in edits}
        columns = shard.layout.columns
        table = _set_cells(
            table, "json", {row: rewrite_member("json", cell, edits[row][1], columns) for row, cell in cells.items() if cell is not None}
        )
    return table


def _replace_cells(
    table: pa.Table, name: str, field: FieldName, edits: Mapping[int, tuple[str, tuple[str, str]]], shard: Shard
) -> pa.Table:
    for row, (key, (old, _)) in edits.items():
        found = table[name][row].as_py() if name else None
        if found is None or str(found) != old:
            raise changed_source(shard.file, key, f"the {field} {found!r:.80}", f"{old!r:.80}")
    new = {row: int(value) if field == "label" else value for row, (_, (_, value)) in edits.items()}
    try:
        return _set_cells(table, name, new)
    except (pa.ArrowInvalid, OverflowError):
        raise too_narrow(name, table.schema.field(name).type, field, str(shard.file)) from None


def too_narrow(name: str, kind: Any, field: FieldName, file: str) -> DatasetError:
    """A column's type does not hold the new values."""
    held, do = ("class", "cast it to int64") if field == "label" else ("caption", "cast it to text")
    return DatasetError(Problem(file, f"the column '{name}' of type {kind} cannot hold every {held}", do=do))


def _set_cells(table: pa.Table, name: str, values: Mapping[int, Any]) -> pa.Table:
    """A table with some cells of one column replaced."""
    number = table.column_names.index(name)
    column = one_array(table[number])
    fresh = pa.array(list(values.values()), column.type)
    return table.set_column(number, table.schema.field(number), set_cells(table[number], list(values), fresh))


def set_cells(column: pa.ChunkedArray, rows: Any, values: pa.Array) -> pa.ChunkedArray:
    """A column with the cells of some rows replaced by values that its type holds; the rest is copied, not read."""
    take = np.arange(len(column))
    take[rows] = len(column) + np.arange(len(rows))
    plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    edited = pa.chunked_array([one_array(column), values.cast(plain)]).take(pa.array(take))
    return edited.dictionary_encode().cast(column.type) if pa.types.is_dictionary(column.type) else edited


def standard_tables(
    tables: Iterable[pa.Table], fields: Fields, shard: Shard, edits: Mapping[str, RowEdit]
) -> Iterator[tuple[pa.Array, pa.Table]]:
    """Pieces of a table as rows read: key, image, label, caption, others, edits applied; with the paths of the images."""
    cursor = Cursor(fields, shard, edits)
    for piece in tables:
        table, keys, kept = cursor.edit(piece)
        table = table if len(kept) == len(table) else table.take(pa.array(kept))
        yield image_paths(table, fields, shard, {}), _standard_table(table, keys, fields)
    cursor.finish()


def fit_table(table: pa.Table, schema: pa.Schema, file: Path) -> pa.Table:
    """A piece under the schema of all shards: a column that its shard lacks is null."""
    columns = []
    for field in schema:
        try:
            held = field.name in table.column_names
            columns.append(table[field.name].cast(field.type) if held else pa.nulls(len(table), field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            found, do = f"the column '{field.name}' is of type {table.schema.field(field.name).type}", "give all shards one schema"
            raise DatasetError(Problem(str(file), found, f"{field.type}, as in another shard", do)) from None
    return pa.table(columns, schema=schema)


def edited_tables(tables: Iterable[pa.Table], cursor: Cursor) -> Iterator[pa.Table]:
    """Pieces of a table as they lie, edits applied."""
    for piece in tables:
        yield cursor.edit(piece)[0]
    cursor.finish()


def _standard_table(table: pa.Table, keys: pa.Array, fields: Fields) -> pa.Table:
    columns = {"key": keys}
    if fields.image:
        column = table[fields.image]
        column = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
        columns["image"] = column.cast(pa.large_binary())
    if fields.label:
        columns["label"] = table[fields.label].cast(pa.int64())
    if fields.caption:
        columns["caption"] = one_array(table[fields.caption]).cast(pa.large_string())
    return pa.table(columns | {name: table[name] for name in fields.others})
