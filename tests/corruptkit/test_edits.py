"""Edits: composed over stages, undone, and found by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.edits import compose_edits, digest_edits, edit_index, map_edits, reverse_edits
from corruptkit.errors import IntegrityError
from corruptkit.formats.overlay import EDITS
from corruptkit.index import Index
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows
from tests.corruptkit.strategies import examples, index_rows

Line = dict[str, Any]


def edit_line(key: str, stage: int, field: str, old: str, new: str) -> Line:
    kind = "flip" if field == "label" else "swap"
    return {"key": key, "shard": "a.tar", "stage": stage, "kind": kind, "field": field, "old": old, "new": new, "donor": "", "rank": 0}


def edit_table(*lines: Line) -> pa.Table:
    return pa.Table.from_pylist(list(lines), schema=EDITS)


def composed_lines(table: pa.Table) -> list[tuple[str, str, str, str]]:
    return [(line["key"], line["field"], line["old"], line["new"]) for line in table.to_pylist()]


@st.composite
def histories(draw: st.DrawFn) -> list[Line]:
    """Edits of a few rows as the stages of a chain would leave them: each `old` is what the stage before made."""
    lines = []
    for key in sorted(draw(st.sets(st.sampled_from("abcé😀"), max_size=4)), key=str.encode):
        values = {"label": "0", "caption": "x"}
        for stage in sorted(draw(st.sets(st.integers(0, 5), max_size=4))):
            field = draw(st.sampled_from(["label", "caption"]))
            new = draw(st.sampled_from(["0", "1", "2"] if field == "label" else ["x", "y", ""]))
            lines.append(edit_line(key, stage, field, values[field], new))
            values[field] = new
    return lines


@examples(200)
@given(histories())
def test_composed_edits_are_first_old_and_last_new(lines: list[Line]) -> None:
    found = composed_lines(compose_edits(edit_table(*lines)))
    expected: dict[tuple[str, str], tuple[str, str]] = {}
    for line in lines:
        known = (line["key"], line["field"])
        expected[known] = (expected.get(known, (line["old"],))[0], line["new"])
    order = sorted(expected, key=lambda known: (known[0].encode(), known[1] == "caption"))
    assert found == [(*known, *expected[known]) for known in order if expected[known][0] != expected[known][1]]


def test_edit_that_comes_back_is_none() -> None:
    lines = [edit_line("a", 0, "label", "1", "2"), edit_line("a", 1, "label", "2", "1"), edit_line("b", 0, "label", "1", "2")]
    assert composed_lines(compose_edits(edit_table(*lines))) == [("b", "label", "1", "2")]


def test_label_stands_before_caption() -> None:
    lines = [edit_line("a", 0, "caption", "x", "y"), edit_line("a", 1, "label", "1", "2")]
    assert composed_lines(compose_edits(edit_table(*lines))) == [("a", "label", "1", "2"), ("a", "caption", "x", "y")]


@examples(100)
@given(histories())
def test_reversed_edits_exchange_old_and_new(lines: list[Line]) -> None:
    composed = compose_edits(edit_table(*lines))
    undone = reverse_edits(composed)
    assert composed_lines(undone) == [(key, field, new, old) for key, field, old, new in composed_lines(composed)]
    assert reverse_edits(undone).equals(composed)


@examples(60)
@given(histories())
def test_digest_is_the_oracles(lines: list[Line]) -> None:
    edits = [oracle.Edit(**{name: line[name] for name in oracle.Edit._fields}) for line in lines]
    assert digest_edits(edit_table(*lines)) == oracle.plan_digest(edits)


def test_digest_does_not_depend_on_chunks_or_shards() -> None:
    lines = [edit_line(key, 0, "label", "1", "2") for key in "abcd"]
    whole = edit_table(*lines)
    assert digest_edits(pa.concat_tables([whole.slice(0, 1), whole.slice(1)])) == digest_edits(whole)
    assert digest_edits(edit_table(*[line | {"shard": "other.tar"} for line in lines])) == digest_edits(whole)
    assert digest_edits(edit_table(*lines[:3])) != digest_edits(whole)
    assert digest_edits(edit_table()) == oracle.plan_digest([])


# Found by row

ROWS = [Row(key, label, f"caption of {key}") for label, key in enumerate("dbeac")]  # not in the order of keys
SOME = compose_edits(
    edit_table(
        edit_line("a", 0, "label", "3", "9"),
        edit_line("a", 1, "caption", "caption of a", "new a"),
        edit_line("c", 1, "caption", "caption of c", ""),
        edit_line("e", 0, "label", "2", "0"),
    )
)


@pytest.fixture
def index() -> Index:
    return index_rows(ROWS, classes=10, shards=2)


def test_edits_are_found_in_source_order(index: Index) -> None:
    found = map_edits(SOME, index)
    both = {"label": ("3", "9"), "caption": ("caption of a", "new a")}
    assert found.of_rows(0, 5) == [(2, {"label": ("2", "0")}), (3, both), (4, {"caption": ("caption of c", "")})]
    assert found.of_rows(0, 2) == []
    assert found.of_rows(3, 4) == [(3, both)]
    assert [found.of_row(row) for row in range(5)] == [None, None, {"label": ("2", "0")}, both, {"caption": ("caption of c", "")}]
    assert found.count.tolist() == [0, 0, 1, 2, 1]


def test_no_edits_are_found_nowhere(index: Index) -> None:
    found = map_edits(compose_edits(edit_table()), index)
    assert found.of_rows(0, 5) == []
    assert found.of_row(3) is None


@pytest.mark.parametrize("rows", [ROWS[:2], []])
def test_edits_of_rows_that_are_not_there_are_counted(rows: list[Row]) -> None:
    with pytest.raises(IntegrityError, match=r"^plan: 3 edits of rows that the source does not have; name the source it was made of$"):
        map_edits(SOME, index_rows(rows, classes=10))


def test_edited_index_is_that_of_the_edited_rows(index: Index) -> None:
    after = [
        ROWS[0],
        ROWS[1],
        ROWS[2]._replace(label=0),
        ROWS[3]._replace(label=9, caption="new a"),
        ROWS[4]._replace(caption=""),
    ]
    found, expected = edit_index(index, SOME, null_label=False), index_rows(after, classes=10, shards=2)
    assert found.table.equals(expected.table)
    assert found.meta == expected.meta
    assert edit_index(found, reverse_edits(SOME), null_label=False).meta == index.meta
    assert index.column("caption").to_pylist() == [row.caption for row in ROWS], "the index itself is as it was"


def test_edits_of_many_rows_are_found_in_any_slice() -> None:
    rows = make_rows(300)
    changed = np.arange(0, 300, 7)
    composed = compose_edits(edit_table(*[edit_line(rows[n].key, 0, "label", str(n % 10), str((n + 1) % 10)) for n in changed]))
    found = map_edits(composed, index_rows(rows))
    for start, stop in ((0, 300), (0, 1), (1, 7), (7, 8), (100, 200), (299, 300), (300, 300)):
        assert [row for row, _ in found.of_rows(start, stop)] == [n for n in changed if start <= n < stop]
