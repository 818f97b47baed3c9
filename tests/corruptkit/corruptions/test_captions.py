"""Swaps: the walk against one that keeps a real queue, and what makes two captions differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from pydantic import ValidationError

from corruptkit.corruptions import Swap
from corruptkit.corruptions.rows import Decision
from corruptkit.draws import Draws
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows
from tests.corruptkit.strategies import captions, examples, index_rows


def decide_swap(rows: list[Row], ratio: object = 1, **fields: object) -> Decision:
    return Swap(ratio=ratio, **fields).decide(index_rows(rows).rows(), Draws("0", "swap"))


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


def test_partners_within_a_class_have_it_in_common() -> None:
    rows = [*make_rows(80, classes=4), Row("x", None, "no class"), Row("y", 1, None)]
    decision = decide_swap(rows, "1", mode="within")
    labels = [row.label for row in sorted(rows, key=lambda row: row.key.encode())]
    assert decision.eligible == len(decision.rows) == 80
    assert all(labels[row] == labels[donor] for row, donor in zip(decision.rows.tolist(), decision.donors.tolist(), strict=True))


def test_far_and_near_take_the_opposite_and_the_like() -> None:
    """Directions along a circle: of the next 64, the far partner looks the other way and the near one the same."""
    rows = make_rows(600, captions=600)
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 600)
    vectors = {row.key: [float(np.cos(angle)), float(np.sin(angle))] for row, angle in zip(rows, angles, strict=True)}
    cosines = {}
    for mode in ("any", "far", "near"):
        decision = decide_swap(rows, "0.3", mode=mode, **({} if mode == "any" else {"embeddings": vectors}))
        cosines[mode] = np.cos(angles[decision.rows] - angles[decision.donors])
        assert len(decision.rows) == 180
    assert cosines["far"].max() < -0.8
    assert cosines["near"].min() > 0.8
    assert abs(cosines["any"].mean()) < 0.3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mode": "far"}, "needs embeddings; state embeddings"),
        ({"embeddings": {"a": [1.0]}}, "takes no embeddings; leave them out"),
        ({"mode": "near", "embeddings": 5}, "expected a path to a Parquet file"),
    ],
)
def test_embeddings_stand_beside_the_modes_that_use_them(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Swap(ratio=1, **fields)


def test_every_eligible_row_has_an_embedding() -> None:
    rows = make_rows(9)
    vectors = {row.key: [1.0] for row in rows[2:]}
    with pytest.raises(ValueError, match=f"lack 2 eligible rows, first '{rows[0].key}'"):
        decide_swap(rows, mode="far", embeddings=vectors)
    some = {"keys_file": [row.key for row in rows[2:]]}
    assert decide_swap(rows, mode="far", embeddings=vectors, where=some).eligible == 7
