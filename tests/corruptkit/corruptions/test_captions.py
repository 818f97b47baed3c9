"""Swaps: the walk against one that keeps a real queue, and what makes two captions differ."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.corruptions import Swap
from corruptkit.corruptions.captions import pair_ranks
from corruptkit.corruptions.rows import Decision
from corruptkit.draws import Draws
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows
from tests.corruptkit.strategies import captions, examples, index_rows


def decide_swap(rows: list[Row], ratio: object = 1, **fields: object) -> Decision:
    return Swap(ratio=ratio, **fields).decide(index_rows(rows).rows(), Draws("0", "swap"))


@examples(400)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 20))
def test_walk_is_that_of_a_queue(codes: list[int], wanted: int) -> None:
    rows = {f"{rank:02d}": (None, f"caption {code}") for rank, code in enumerate(codes)}
    assert pair_ranks(codes, wanted).tolist() == [list(pair) for pair in oracle.pair_keys(list(rows), rows, wanted)]


def test_walk_pairs_the_first_that_waits() -> None:
    """0 0 0 wait; 1 takes the first of them, the next 1 the second; 0 joins behind the third."""
    assert pair_ranks([0, 0, 0, 1, 1, 0, 2, 2], 9).tolist() == [[0, 3], [1, 4], [2, 6], [5, 7]]
    assert pair_ranks([0, 1, 0, 1], 1).tolist() == [[0, 1]]
    for codes, wanted in (([], 3), ([0, 1], 0), ([4, 4, 4], 1)):
        assert pair_ranks(codes, wanted).shape == (0, 2)


def test_walk_leaves_no_more_than_one_caption_over() -> None:
    pairs = pair_ranks([n % 3 for n in range(99)], 99)
    assert len(pairs) == 49
    assert len(set(pairs.ravel().tolist())) == 98


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("a cat", "a dog", True),
        ("A  Cat", "a cat", False),
        ("A CAT ", "\t\n\v\f\r a\r\ncat", False),
        ("", " \t\n\v\f\r", False),
        ("a cat", "acat", True),
        ("straße", "STRASSE", True),
        ("\u00e9", "\u00c9", True),
        ("\u00e9", "e\u0301", True),
        ("a\u00a0cat", "a cat", True),
        ("a\u2003cat", "a cat", True),
        ("a\x1ccat", "a cat", True),
        ("a\x85", "a", True),
        ("a\u200b", "a", True),
        ("\ufeffa", "a", True),
        ("\u212a", "k", True),
        ("\u0130", "i", True),
        ("[Z", "{z", True),
        ("a\x00", "a", True),
        ("Z@", "z@", False),
    ],
)
def test_captions_differ_by_more_than_white_space_and_ascii_case(one: str, other: str, differ: bool) -> None:
    decision = decide_swap([Row("a", None, one), Row("b", None, other)])
    assert len(decision.rows) == 2 * differ == 2 * (oracle.plain_caption(one) != oracle.plain_caption(other))
    if differ:
        assert dict(zip(decision.rows.tolist(), decision.new.to_pylist(), strict=True)) == {0: other, 1: one}, "the original texts"


@examples(300)
@given(captions, captions)
def test_captions_are_compared_as_the_oracle_does(one: str, other: str) -> None:
    decision = decide_swap([Row("a", None, one), Row("b", None, other)])
    assert (len(decision.rows) == 2) == (oracle.plain_caption(one) != oracle.plain_caption(other))


def test_row_with_an_empty_caption_is_eligible_and_one_without_is_not() -> None:
    rows = [Row("a", None, ""), Row("b", None, None), Row("c", 1, "x"), Row("d", 2, None)]
    decision = decide_swap(rows)
    assert (decision.eligible, decision.selected, sorted(decision.rows.tolist())) == (2, 2, [0, 2])
    assert sorted(decision.donors.tolist()) == [0, 2]


@pytest.mark.parametrize(
    ("ratio", "selected", "edits"), [("0.1", 10, 10), ("0.11", 11, 10), ("0.01", 1, 0), ("0.994", 99, 98), ("1", 100, 100)]
)
def test_odd_number_of_rows_leaves_one_alone(ratio: str, selected: int, edits: int) -> None:
    decision = decide_swap(make_rows(100), ratio)
    assert (decision.selected, len(decision.rows)) == (selected, edits)


def test_edits_stand_in_ascending_rank_beside_their_donors() -> None:
    rows = make_rows(60, captions=3)
    decision = decide_swap(rows, "0.5")
    ranks = decision.rank.tolist()
    assert ranks == sorted(set(ranks))
    partner = dict(zip(decision.rows.tolist(), decision.donors.tolist(), strict=True))
    assert all(partner[donor] == row for row, donor in partner.items())
    assert decision.new.to_pylist() == [rows[donor].caption for donor in decision.donors.tolist()]


def test_where_chooses_whose_captions_move() -> None:
    rows = make_rows(40, classes=4)
    decision = decide_swap(rows, "0.25", of="eligible", where={"classes": [1], "caption_contains": "thing 1"})
    mine = [n for n, row in enumerate(rows) if row.label == 1 and "thing 1" in (row.caption or "")]
    assert decision.eligible == len(mine)
    assert set(decision.rows.tolist()) <= set(mine)
