"""Flips: each mode on rows whose draws are worked out by hand or by fractions."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corruptkit.corruptions import Flip
from corruptkit.corruptions.labels import quantise_weights
from corruptkit.corruptions.rows import Decision
from corruptkit.draws import Draws
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows
from tests.corruptkit.strategies import examples, index_rows

SCALE = 2**32


class Fixed(Draws):
    """Draws that are given: ranks in the order of the rows, one target for them all."""

    def of(self, purpose: str, hashes: Any) -> Any:
        ranks = np.arange(len(hashes), dtype=np.uint64)
        return ranks if purpose == "rank" else np.full(len(hashes), int(self.seed), np.uint64)


def decide_flip(
    flip: Flip, rows: list[Row], classes: int | None = None, *, target: int | None = None, null_label: bool = False
) -> Decision:
    draws = Draws("0", "flip") if target is None else Fixed(str(target), "flip")
    return flip.decide(index_rows(rows, classes=classes, null_label=null_label).rows(), draws)


def new_labels(flip: Flip, rows: list[Row], classes: int, target: int) -> list[int]:
    decision = decide_flip(flip, rows, classes, target=target)
    assert decision.rows.tolist() == sorted(decision.rows.tolist())
    return np.asarray(decision.new).tolist()


@pytest.mark.parametrize("mode", ["uniform", "prior", "within", "pair", "redraw"])
def test_one_large_label_takes_no_memory(mode: str) -> None:
    """A label that is an id in truth makes 2^31 classes; none of the modes holds a table of them."""
    rows = [Row("a", 2**31), Row("b", 3), Row("c", 3)]
    tracemalloc.start()
    decision = decide_flip(Flip(mode=mode, ratio="1", groups=[[3, 2**31]] if mode == "within" else None), rows)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert decision.eligible == 3
    if mode in ("prior", "within"):
        assert sorted(np.asarray(decision.new).tolist()) == [3, 2**31, 2**31]


LOWEST, HIGHEST = 0, 2**64 - 1
ROWS = make_rows(5, classes=5)


@pytest.mark.parametrize(
    ("fields", "lowest", "highest"),
    [
        ({"mode": "uniform"}, [1, 0, 0, 0, 0], [4, 4, 4, 4, 3]),
        ({"mode": "prior"}, [1, 0, 0, 0, 0], [4, 4, 4, 4, 3]),
        ({"mode": "pair"}, [1, 2, 3, 4, 0], [1, 2, 3, 4, 0]),
        ({"mode": "within", "groups": [[0, 1, 2, 3, 4]]}, [1, 0, 0, 0, 0], [4, 4, 4, 4, 3]),
        ({"mode": "within", "groups": [[1, 4], [0, 2, 3]]}, [2, 4, 0, 0, 1], [3, 4, 3, 2, 1]),
        ({"mode": "matrix", "matrix": [["7"] * 5] * 5}, [1, 0, 0, 0, 0], [4, 4, 4, 4, 3]),
        ({"mode": "matrix", "matrix": [["0", "0", "1", "0", "0"]] * 2 + [["1", "0", "9", "1", "0"]] * 3}, [2, 2, 0, 0, 0], [2, 2, 3, 2, 3]),
    ],
    ids=str,
)
def test_lowest_and_highest_draw_reach_the_first_and_last_other_class(
    fields: dict[str, Any], lowest: list[int], highest: list[int]
) -> None:
    flip = Flip(ratio=1, **fields)
    assert (new_labels(flip, ROWS, 5, LOWEST), new_labels(flip, ROWS, 5, HIGHEST)) == (lowest, highest)


def test_redraw_keeps_no_edit_for_a_row_that_drew_its_own_class() -> None:
    decision = decide_flip(Flip(ratio=1, mode="redraw"), ROWS, 5, target=LOWEST)
    assert (decision.rows.tolist(), np.asarray(decision.new).tolist(), decision.rank.tolist()) == ([1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 3, 4])
    assert (decision.eligible, decision.selected) == (5, 5)


@pytest.mark.parametrize(
    ("fields", "eligible"),
    [
        ({"mode": "uniform"}, 6),
        ({"mode": "pair"}, 6),
        ({"mode": "prior"}, 6),
        ({"mode": "redraw"}, 6),
        ({"mode": "within", "groups": [[0], [1, 2]]}, 3),
        ({"mode": "within", "groups": []}, 0),
        ({"mode": "within", "groups": [[0, 2]]}, 4),
        ({"mode": "matrix", "matrix": [["5", "0", "0"], ["1", "0", "0"], ["0", "0", "5"]]}, 2),
        ({"mode": "uniform", "where": {"classes": [0, 2]}}, 4),
    ],
    ids=str,
)
def test_rows_that_can_change_are_eligible(fields: dict[str, Any], eligible: int) -> None:
    """Labels 0 0 0 1 1 2, a null label (3) and none at all."""
    rows = [Row(f"{n}", label) for n, label in enumerate([0, 0, 0, 1, 1, 2, 3, None])]
    decision = decide_flip(Flip(ratio=1, **fields), rows, 3, null_label=True)
    assert (decision.eligible, decision.selected) == (eligible, eligible)
    assert set(decision.rows.tolist()) <= set(range(6))


def test_prior_counts_all_rows_and_not_those_of_where() -> None:
    rows = [Row("a", 0), *(Row(f"b{n}", 2) for n in range(3)), Row("c", 1)]
    flip = Flip(ratio=1, mode="prior", where={"classes": [0]})
    steps = [k * 2**64 // 4 for k in range(4)]
    assert [new_labels(flip, rows, 4, step) for step in steps] == [[1], [2], [2], [2]]


def test_prior_of_a_class_that_holds_every_row_is_not_eligible() -> None:
    rows = [*make_rows(4, classes=1), Row("x", None, "y")]
    assert decide_flip(Flip(ratio=1, mode="prior"), rows, 3).eligible == 0


def test_quantised_weights_of_the_specification() -> None:
    assert quantise_weights(("0", "1", "1")) == [0, SCALE // 2, SCALE // 2]
    assert quantise_weights(("1", "1", "0", "1")) == [1431655766, 1431655765, 0, 1431655765], "the tie goes to the lower class"
    assert quantise_weights(("2", "1")) == [2863311531, 1431655765], "the larger remainder"
    assert quantise_weights(("0", "0.000000000000000000000000001")) == [0, SCALE]
    assert quantise_weights(("1", "99999999999999999999")) == [0, SCALE]


@examples(150)
@given(st.lists(st.decimals(0, 10**6, places=9) | st.integers(0, 3), min_size=1, max_size=12).filter(any))
@example([1] * 7)
def test_quantised_weights_sum_to_the_scale_and_are_the_nearest(weights: list[Decimal | int]) -> None:
    texts = tuple(format(weight, "f") for weight in map(Decimal, weights))
    exact = [Fraction(text) for text in texts]
    found = quantise_weights(texts)
    assert sum(found) == SCALE
    assert found == oracle.quantise_row(texts, -1)
    shares = [weight * SCALE / sum(exact) for weight in exact]
    assert all(abs(whole - share) < 1 for whole, share in zip(found, shares, strict=True))
    assert all(whole == 0 for whole, weight in zip(found, exact, strict=True) if weight == 0)


@pytest.mark.parametrize("mode", ["uniform", "prior", "pair", "redraw"])
def test_target_of_a_row_is_the_same_at_every_ratio(mode: str) -> None:
    rows = make_rows(300, classes=7)
    whole = decide_flip(Flip(ratio=1, mode=mode), rows)
    targets = dict(zip(whole.rows.tolist(), np.asarray(whole.new).tolist(), strict=True))
    for ratio in ("0.01", "0.3"):
        part = decide_flip(Flip(ratio=ratio, mode=mode), rows)
        assert dict(zip(part.rows.tolist(), np.asarray(part.new).tolist(), strict=True)).items() <= targets.items()


def test_of_eligible_takes_its_share_of_the_rows_that_can_change() -> None:
    where = {"classes": [0, 1]}
    counts = [decide_flip(Flip(ratio="0.3", of=of, where=where), make_rows(100, classes=10)).selected for of in ("all", "eligible")]
    assert counts == [20, 6]
