"""Edits of words: always a real change, as many as the level says, drawn from the source's own words."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from corruptkit.corruptions import Words
from corruptkit.corruptions.rows import Decision
from corruptkit.corruptions.words import Vocabulary, count_edits
from corruptkit.draws import Draws
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row
from tests.corruptkit.strategies import captions, examples, index_rows

MODES = ("mixed", "delete", "duplicate", "transpose", "replace")


def edit_rows(rows: list[Row], seed: str = "0", **fields: object) -> tuple[Decision, dict[str, str]]:
    decision = Words(**({"ratio": 1} | fields)).decide(index_rows(rows).rows(), Draws(seed, "words"))
    keys = sorted((row.key for row in rows), key=str.encode)
    return decision, dict(zip([keys[row] for row in decision.rows.tolist()], decision.new.to_pylist(), strict=True))


@examples(200)
@given(st.lists(captions, min_size=1, max_size=8), st.sampled_from(MODES), st.integers(1, 5))
def test_every_edit_is_a_real_change_of_the_words(texts: list[str], mode: str, level: int) -> None:
    rows = [Row(str(n), None, text) for n, text in enumerate(texts)]
    decision, new = edit_rows(rows, mode=mode, level=level)
    vocabulary = oracle.count_words({row.key: (None, row.caption) for row in rows})
    able = {row.key for row in rows if oracle.can_edit(mode, oracle.words_of(row.caption or ""), vocabulary)}
    assert set(new) == able
    assert decision.eligible == decision.selected == len(able)
    for row in rows:
        if row.key in able:
            old, left = oracle.words_of(row.caption or ""), oracle.words_of(new[row.key])
            assert left != old
            assert new[row.key] == " ".join(left)
            assert set(left) <= set(vocabulary)


@pytest.mark.parametrize(
    ("words", "level", "edits"), [(1, 1, 1), (1, 5, 1), (10, 1, 1), (10, 5, 5), (15, 1, 2), (14, 1, 1), (3, 5, 2), (200, 5, 64), (0, 1, 1)]
)
def test_level_is_a_tenth_of_the_words(words: int, level: int, edits: int) -> None:
    assert count_edits(words, level) == edits


@pytest.mark.parametrize(
    ("mode", "caption", "able"),
    [
        ("delete", "cat", False),
        ("delete", "a cat", True),
        ("delete", "  cat\n", False),
        ("duplicate", "cat", True),
        ("duplicate", " \t", False),
        ("transpose", "cat cat\tcat", False),
        ("transpose", "cat cat dog", True),
        ("transpose", "cat catcat", True),
        ("transpose", "cat ca", True),
        ("transpose", "cat Cat", True),
        ("transpose", "a\u00a0b", False),
        ("replace", "cat", True),
        ("mixed", "cat", True),
        ("mixed", "", False),
    ],
)
def test_captions_too_short_are_not_eligible(mode: str, caption: str, able: bool) -> None:
    decision, new = edit_rows([Row("a", None, caption), Row("b", None, None), Row("c", None, "one two")], mode=mode)
    assert ("a" in new) == able
    assert decision.eligible == able + 1


def test_captions_of_one_word_alone_have_nothing_to_replace_it_by() -> None:
    rows = [Row(str(n), None, " cat  cat") for n in range(5)]
    assert edit_rows(rows, mode="replace")[0].eligible == 0
    _, new = edit_rows(rows, mode="mixed", level=5)
    assert set(new.values()) <= {"cat", "cat cat cat"}


def test_long_repeated_words_take_no_more_room_than_the_caption() -> None:
    """A first word of half a caption, and many short ones after it, would fill memory if it were repeated."""
    text = "x" * 500_000 + " y" * 250_000
    assert edit_rows([Row("a", None, text)], mode="transpose")[0].eligible == 1


def test_word_that_comes_is_drawn_by_its_frequency() -> None:
    """8 of 11 words are 'often': each of the others becomes it in 8 of 10 draws."""
    rows = [Row(f"{n:05d}", None, "seldom") for n in range(4000)]
    rows += [Row(f"x{n:05d}", None, "often often") for n in range(16_000)] + [Row(f"y{n:05d}", None, "rare") for n in range(8000)]
    _, new = edit_rows(rows, mode="replace", where={"caption_contains": "seldom"}, of="eligible")
    counts = Counter(new.values())
    assert sum(counts.values()) == 4000
    assert set(counts) == {"often", "rare"}
    assert abs(counts["often"] / 4000 - 32 / 40) < 0.03


def test_vocabulary_is_counted_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["b a", None, "a\n\na", "", " c b", "\u00e9"]
    for block in (1, 2, 100):
        monkeypatch.setattr("corruptkit.corruptions.words._BLOCK", block)
        found = Vocabulary(pa.array(texts, pa.large_string()))
        assert found.words == ["a", "b", "c", "\u00e9"]
        assert found.draw_other("a", 0) == "b"
        assert found.draw_other("b", 2**32 - 1) == "\u00e9"


@pytest.mark.parametrize("level", [0, 6, "3", True, 1.5])
def test_level_is_an_integer_from_one_to_five(level: object) -> None:
    with pytest.raises(ValidationError):
        Words(ratio=1, level=level)


def test_levels_change_more_of_a_caption() -> None:
    rows = [Row(f"{n}", None, " ".join(f"w{n}x{k}" for k in range(20))) for n in range(50)]
    kept = [
        sum(len(set(edit_rows(rows, mode="replace", level=level)[1][row.key].split()) & set((row.caption or "").split())) for row in rows)
        for level in range(1, 6)
    ]
    assert kept == sorted(kept, reverse=True)
    assert 50 * 18 <= kept[0] < 50 * 18.2, "two edits a caption, seldom of one word twice"
