"""What a stage sees and leaves: columns, class counts, and decisions applied to them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from corruptkit.corruptions import KINDS, Constant, Drop, Flip, Rewrite, Swap, Words
from corruptkit.corruptions.rows import Decision, Rows, as_text
from tests.corruptkit.shards import Row, make_rows
from tests.corruptkit.strategies import index_rows


def rows_of(rows: list[Row], classes: int | None = None, *, null_label: bool = False) -> Rows:
    return index_rows(rows, classes=classes, null_label=null_label).rows()


def counts_of(rows: Rows) -> dict[int, int]:
    present, counts = rows.class_counts()
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def decision_of(field: str, rows: list[int], new: np.ndarray | pa.Array) -> Decision:
    rank = np.arange(len(rows))
    return Decision(field, np.array(rows), rank, new, np.full(len(rows), -1), rank + 1, len(rows), len(rows))


def test_kinds_are_what_recipes_may_name() -> None:
    assert {"flip": Flip, "swap": Swap, "drop": Drop, "constant": Constant, "words": Words, "rewrite": Rewrite} == KINDS
    for kind, model in KINDS.items():
        assert model.model_fields["kind"].default == kind
        assert model.__doc__


def test_rows_stand_in_ascending_key_bytes() -> None:
    found = rows_of([Row("é", 2, "x"), Row("b", 1), Row("B", 0, "z"), Row("z", None, "w")])
    assert found.keys.to_pylist() == ["B", "b", "z", "é"]
    assert found.labels is not None
    assert found.captions is not None
    assert (found.labels.tolist(), found.captions.to_pylist()) == ([0, 1, -1, 2], ["z", None, "w", "x"])


def test_column_that_no_row_has_is_none() -> None:
    assert rows_of([Row("a", None, "x")]).labels is None
    assert rows_of([Row("a", 0, None)]).captions is None
    empty = rows_of([])
    assert [len(empty), empty.labels, empty.captions, empty.classes] == [0, None, None, None]
    assert empty.real_labels().tolist() == []
    assert counts_of(empty) == {}


def test_null_label_is_no_class() -> None:
    found = rows_of([Row("a", 0), Row("b", 2), Row("c", 3), Row("d", None)], 3, null_label=True)
    assert found.real_labels().tolist() == [True, True, False, False]
    assert counts_of(found) == {0: 1, 2: 1}


def test_counts_of_large_labels_take_no_table() -> None:
    """One label of 2^60 beside others counts as any does."""
    large = 1 << 60
    assert counts_of(rows_of([Row("a", large), Row("b", 1), Row("c", 1), Row("d", large - 1)])) == {1: 2, large - 1: 1, large: 1}


def test_decision_on_labels_leaves_its_input_alone() -> None:
    before = rows_of(make_rows(4, classes=4))
    decision = decision_of("label", [3, 0], np.array([0, 2]))
    after = decision.apply(before)
    assert after.labels is not None
    assert before.labels is not None
    assert (before.labels.tolist(), after.labels.tolist()) == ([0, 1, 2, 3], [2, 1, 2, 0])
    assert decision.old_values(before).to_pylist() == ["3", "0"]
    assert after.captions is before.captions


def test_decision_on_captions_leaves_its_input_alone() -> None:
    before = rows_of([Row("a", 0, "x"), Row("b", 0, None), Row("c", 0, "y")])
    decision = decision_of("caption", [2, 0], pa.array(["", "é"], pa.large_string()))
    after = decision.apply(before)
    assert after.captions is not None
    assert before.captions is not None
    assert (before.captions.to_pylist(), after.captions.to_pylist()) == (["x", None, "y"], ["é", None, ""])
    assert decision.old_values(before).to_pylist() == ["y", "x"]


def test_decision_without_edits_changes_nothing() -> None:
    before = rows_of(make_rows(3))
    assert decision_of("label", [], np.zeros(0, np.int64)).apply(before) is before


def test_values_stand_as_text() -> None:
    assert as_text(np.array([0, 10, 999])).to_pylist() == ["0", "10", "999"]
    assert as_text(pa.array(["a", ""])).type == pa.large_string()
