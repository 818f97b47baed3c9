"""Draws: integers of a plain re-implementation, in vectors of any length, and a partial ranking that equals the whole one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit import draws
from corruptkit.draws import Draws, below, hash_keys, hash_text, mix64, rank_rows
from tests.corruptkit import oracle
from tests.corruptkit.strategies import examples

words = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("text", ["", "000000000", "é", "日本", "a" * 300, "\u2028"])
def test_hash_is_of_utf8_bytes(text: str) -> None:
    assert hash_text(text) == oracle.h(text) == hash_keys([text.encode()])[0]


def test_no_keys_have_no_hashes() -> None:
    found = hash_keys([])
    assert (found.dtype, found.shape) == (np.uint64, (0,))
    assert Draws("0", "flip").of("rank", found).shape == (0,)


@examples(200)
@given(st.lists(words, max_size=20))
def test_mix64_wraps_as_integers_modulo_2_to_the_64(values: list[int]) -> None:
    assert mix64(np.array(values, np.uint64)).tolist() == [oracle.mix64(value) for value in values]


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1, 2**63, 0x9E3779B97F4A7C15])
def test_mix64_at_its_ends(value: int) -> None:
    assert mix64(np.array([value], np.uint64)).tolist() == [oracle.mix64(value)]


@examples(200)
@given(st.lists(words, min_size=1, max_size=20), st.integers(1, 2**32 - 1))
def test_below_is_less_than_its_limit(values: list[int], limit: int) -> None:
    found = below(np.array(values, np.uint64), limit)
    assert found.dtype == np.int64
    assert found.tolist() == [oracle.below(value, limit) for value in values]
    assert all(0 <= value < limit for value in found.tolist())


def test_below_reaches_both_ends_and_takes_a_limit_for_each_row() -> None:
    ends = np.array([0, 2**64 - 1, 2**64 - 1, 2**63], np.uint64)
    assert below(ends, np.array([2**32 - 1, 2**32 - 1, 1, 3])).tolist() == [0, 2**32 - 2, 0, 1]


@pytest.mark.parametrize("seed", ["0", "18446744073709551616", "0.e1"])
@pytest.mark.parametrize("name", ["flip", "swap@1", "flip@255"])
def test_draw_is_that_of_the_specification(seed: str, name: str) -> None:
    keys = ["", "a", "é/ü", "000000000"]
    kind, _, stage = name.partition("@")
    expected = [oracle.draw(seed, kind, int(stage or 0), "target", key) for key in keys]
    assert Draws(seed, name).of("target", hash_keys(key.encode() for key in keys)).tolist() == expected


def test_draws_do_not_depend_on_the_rows_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = hash_keys(f"{i}".encode() for i in range(1000))
    whole = Draws("7", "flip").of("rank", hashes)
    monkeypatch.setattr(draws, "_BLOCK", 7)
    assert np.array_equal(Draws("7", "flip").of("rank", hashes), whole)
    assert np.array_equal(Draws("7", "flip").of("rank", hashes[500:503]), whole[500:503])
    assert not np.array_equal(Draws("7", "flip").of("target", hashes), whole)


@examples(300)
@given(st.lists(st.integers(0, 5) | words, max_size=40), st.data())
def test_first_rows_of_a_ranking_are_those_of_the_whole_one(values: list[int], data: st.DataObject) -> None:
    """Equal draws go by row number, that is by key bytes."""
    count = data.draw(st.integers(0, len(values)))
    ranking = sorted(range(len(values)), key=lambda row: (values[row], row))
    assert rank_rows(np.array(values, np.uint64), count).tolist() == ranking[:count]
