"""Edits: the decisions of a plan as a table, composed over its stages, and found by row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.digest import plan_digest
from corruptkit.errors import IntegrityError, Problem
from corruptkit.formats.conditions import RowEdit
from corruptkit.index import Index, with_fingerprint


def digest_edits(edits: pa.Table) -> str:
    """The plan_digest of a table of edits."""
    fields = np.asarray(pc.equal(_one(edits["field"]), "caption")).astype(np.uint8)
    return plan_digest(_one(edits["key"]), edits["stage"].to_numpy(), fields, _one(edits["new"]))


def compose_edits(edits: pa.Table) -> pa.Table:
    """One row for each (row, field) that differs in the end, ascending (key bytes, label before caption): key, field, old, new."""
    keys = _one(edits["key"])
    new_key = np.ones(len(keys), np.bool_)
    new_key[1:] = np.asarray(pc.not_equal(keys[:-1], keys[1:])) if len(keys) > 1 else True
    table = edits.select(["key", "field", "old", "new"])
    if not new_key.all():
        group = np.cumsum(new_key) * 2 + np.asarray(pc.equal(_one(edits["field"]), "caption"))
        order = np.argsort(group, kind="stable")  # within a key: field, then stage
        edge = np.ones(len(order) + 1, np.bool_)
        edge[1:-1] = np.diff(group[order]) != 0
        first, last = order[edge[:-1]], order[edge[1:]]
        table = table.take(pa.array(first)).set_column(3, "new", edits["new"].take(pa.array(last)))
    differs = pc.not_equal(table["old"], table["new"])
    # Most plans have one edit a row: their columns are shared, not copied.
    return (table if pc.all(differs, min_count=0).as_py() else table.filter(differs)).combine_chunks()


def reverse_edits(composed: pa.Table) -> pa.Table:
    """The composed edits that undo these."""
    return composed.select(["key", "field", "new", "old"]).rename_columns(composed.column_names)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


@dataclass(frozen=True)
class EditMap:
    """Composed edits over the rows of an index: row i in source order has `count[i]` of them, from `first[i]` on."""

    composed: pa.Table
    first: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]

    def of_rows(self, start: int, stop: int) -> list[tuple[int, RowEdit]]:
        """The edits of rows [start, stop), each with its row."""
        rows = np.flatnonzero(self.count[start:stop]) + start
        taken = np.repeat(self.first[rows], self.count[rows])
        taken += np.arange(len(taken)) - np.repeat(np.cumsum(self.count[rows]) - self.count[rows], self.count[rows])
        fields, olds, news = (self.composed[name].take(pa.array(taken)).to_pylist() for name in ("field", "old", "new"))
        edits: list[tuple[int, RowEdit]] = []
        place = 0
        for row, count in zip(rows.tolist(), self.count[rows].tolist(), strict=True):
            edits.append((row, {fields[n]: (olds[n], news[n]) for n in range(place, place + count)}))
            place += count
        return edits

    def of_row(self, row: int) -> RowEdit | None:
        """The edit of a row, by its number in source order."""
        return self.of_rows(row, row + 1)[0][1] if self.count[row] else None


def map_edits(composed: pa.Table, index: Index, where: str = "plan") -> EditMap:
    """Find the rows of composed edits. Raises IntegrityError where an edit has no row."""
    keys = composed["key"]
    edited = pc.unique(keys)
    fresh = np.concatenate([[True], np.asarray(pc.not_equal(keys[1:], keys[:-1]))]) if len(keys) > 1 else np.ones(len(keys), np.bool_)
    starts = np.flatnonzero(fresh)
    found = pc.fill_null(pc.index_in(index.column("key"), value_set=edited), -1).to_numpy().astype(np.int64)
    if (missing := len(edited) - np.count_nonzero(found >= 0)) > 0:
        raise IntegrityError(Problem(where, f"{missing} edits of rows that the source does not have", do="name the source it was made of"))
    has = found >= 0
    counts = np.append(np.diff(np.append(starts, len(keys))), 0)
    places = (np.where(has, of_edit[found], 0).astype(np.int32) for of_edit in (np.append(starts, 0), counts))
    return EditMap(composed, *places)


def edit_index(index: Index, composed: pa.Table, *, null_label: bool) -> Index:
    """The index of the variant that the edits make of a source, and whether the variant declares a null label."""
    labels = index.numbers("label").copy()
    rows, captions = [], []
    for row, edit in map_edits(composed, index).of_rows(0, len(index)):
        if "label" in edit:
            labels[row] = int(edit["label"][1])
        if "caption" in edit:
            rows.append(row)
            captions.append(edit["caption"][1])
    take = np.arange(len(index))
    take[rows] = len(index) + np.arange(len(rows))
    column = pa.chunked_array([index.column("caption"), pa.array(captions, pa.large_string())]).take(pa.array(take))
    names = index.table.column_names
    table = index.table.set_column(names.index("label"), "label", pa.array(labels))
    table = table.set_column(names.index("caption"), "caption", column.combine_chunks())
    meta = index.meta.model_copy(update={"null_label": null_label})
    return with_fingerprint(replace(index, table=table, meta=meta))
