"""The walks that pair rows, each against one that keeps real queues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.corruptions.pairs import pair_directions, pair_ranks
from tests.corruptkit import oracle
from tests.corruptkit.strategies import examples


@examples(400)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=40), st.integers(0, 20), st.sampled_from(["any", "within"]))
def test_walk_is_that_of_queues(found: list[tuple[int, int]], wanted: int, mode: str) -> None:
    rows = {f"{rank:02d}": (queue, f"caption {code}") for rank, (code, queue) in enumerate(found)}
    queues = [queue if mode == "within" else 0 for _, queue in found]
    expected = [list(pair) for pair in oracle.pair_keys({"mode": mode}, list(rows), rows, wanted)]
    assert pair_ranks([code for code, _ in found], queues, wanted).tolist() == expected


def test_walk_pairs_the_first_that_waits() -> None:
    """0 0 0 wait; 1 takes the first of them, the next 1 the second; 0 joins behind the third."""
    assert pair_ranks([0, 0, 0, 1, 1, 0, 2, 2], [0] * 8, 9).tolist() == [[0, 3], [1, 4], [2, 6], [5, 7]]
    assert pair_ranks([0, 1, 0, 1], [0] * 4, 1).tolist() == [[0, 1]]
    for codes, wanted in (([], 3), ([0, 1], 0), ([4, 4, 4], 1)):
        assert pair_ranks(codes, [0] * len(codes), wanted).shape == (0, 2)


def test_walk_leaves_no_more_than_one_caption_over() -> None:
    pairs = pair_ranks([n % 3 for n in range(99)], [0] * 99, 99)
    assert len(pairs) == 49
    assert len(set(pairs.ravel().tolist())) == 98


def walk_slowly(codes: list[int], vectors: np.ndarray, wanted: int, *, near: bool) -> list[list[int]]:
    """Lists of everybody who waits, as SPEC.md tells it."""
    waiting, found = list(range(len(codes))), []
    while waiting and len(found) < wanted:
        first, *rest = waiting
        able = [rank for rank in rest[:64] if codes[rank] != codes[first]] or [rank for rank in rest if codes[rank] != codes[first]][:1]
        if not able:
            break
        dots = {rank: sum(int(a) * int(b) for a, b in zip(vectors[first], vectors[rank], strict=True)) for rank in able}
        taken = min(able, key=lambda rank: (-dots[rank] if near else dots[rank], rank))
        found.append([first, taken])
        waiting = [rank for rank in rest if rank != taken]
    return found


@examples(60)
@given(st.data())
def test_walk_by_directions_is_that_of_a_list(data: st.DataObject) -> None:
    """Captions that come in runs longer than 64, so that a partner is looked for past them."""
    runs = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 150)), max_size=5))
    codes = [code for code, length in runs for _ in range(length)]
    seed = data.draw(st.integers(0, 9))
    vectors = np.array([[(seed + rank * (j + 2)) % 7 - 3 for j in range(3)] for rank in range(len(codes))], np.int8).reshape(-1, 3)
    wanted, near = data.draw(st.integers(0, 200)), data.draw(st.booleans())
    expected = walk_slowly(codes, vectors, wanted, near=near)
    assert pair_directions(codes, vectors, wanted, near=near, whole=True).tolist() == expected
    # With a part of the ranking: the same pairs, and never one that the rest could have made another.
    reach = data.draw(st.integers(0, len(codes)))
    part = pair_directions(codes[:reach], vectors[:reach], wanted, near=near, whole=reach == len(codes)).tolist()
    assert part == expected[: len(part)]
    assert len(part) == len(expected) or reach < len(codes)


def test_products_are_exact_at_the_widest() -> None:
    wide = np.full((3, 1 << 16), 127, np.int8)
    wide[2] = -127
    assert pair_directions([0, 1, 2], wide, 1, near=False, whole=True).tolist() == [[0, 2]]
    assert pair_directions([0, 1, 2], wide, 1, near=True, whole=True).tolist() == [[0, 1]]


@pytest.mark.parametrize("near", [True, False])
def test_equal_products_go_to_the_lower_rank(near: bool) -> None:
    assert pair_directions([0, 1, 2, 3], np.ones((4, 2), np.int8), 2, near=near, whole=True).tolist() == [[0, 1], [2, 3]]
