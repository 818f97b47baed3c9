"""Corruptions of single words of captions: SPEC.md section 4."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from corruptkit.corruptions.fields import WORD, Choice, join_words
from corruptkit.corruptions.rows import Decision, Ints, Rows
from corruptkit.draws import Draws

_WORD = re.compile(WORD)
_BLOCK = 1 << 18  # captions whose words are counted at a time
_MOST = 64  # edits of one caption
_SPACE = 1 << 32


class Words(Choice):
    """Delete, duplicate, transpose or replace single words of chosen captions."""

    kind: Literal["words"] = "words"
    mode: Literal["mixed", "delete", "duplicate", "transpose", "replace"] = "mixed"
    level: Annotated[int, Field(strict=True, ge=1, le=5)] = 1

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Rank the captions that can change, take the first n, edit their words one after another."""
        captions = pa.array([None] * len(rows), pa.large_string()) if rows.captions is None else rows.captions
        vocabulary = Vocabulary(captions)
        chosen, eligible, count = self.choose(rows, draws, self._can_change(captions, vocabulary))
        old = [_WORD.findall(caption) for caption in captions.take(pa.array(chosen)).to_pylist()]
        new = self._edit_words(old, draws, rows.hashes[chosen], vocabulary)
        texts = pa.array([" ".join(words) for words in new], pa.large_string())
        rank = np.arange(len(chosen))
        return Decision("caption", chosen, rank, texts, np.full(len(chosen), -1), rank + 1, eligible, count)

    def _can_change(self, captions: pa.Array, vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
        plain = join_words(pc.fill_null(captions, ""))
        some: npt.NDArray[np.bool_] = np.asarray(pc.not_equal(plain, ""))
        if self.mode == "delete":
            return np.asarray(pc.match_substring(plain, " "))
        if self.mode == "transpose":
            return ~_repeats_word(plain) & some
        return some & (self.mode != "replace" or len(vocabulary.words) > 1)

    def _edit_words(self, old: list[list[str]], draws: Draws, hashes: npt.NDArray[np.uint64], vocabulary: Vocabulary) -> list[list[str]]:
        """The words of each caption after its edits."""
        edits = np.array([count_edits(len(words), self.level) for words in old], np.int64)
        before, left = old, list(old)
        for j in range(edits.max(initial=0)):
            places = np.flatnonzero(edits > j)
            drawn = [draws.of(f"{purpose}.{j}", hashes[places]).tolist() for purpose in ("op", "place", "word")]
            for place, op, where, word in zip(places.tolist(), *drawn, strict=True):
                last = j + 1 == edits[place]
                edited = self._edit_once(left[place], op >> 32, where >> 32, word >> 32, vocabulary)
                # What the last edit turns back to the caption was another one before it.
                left[place] = left[place] if last and edited == before[place] else edited
        return left

    def _edit_once(self, words: list[str], op: int, place: int, word: int, vocabulary: Vocabulary) -> list[str]:
        """One edit, from the upper 32 bits of its three draws."""
        mode: str = self.mode
        if mode == "mixed":
            able = [name for name, test in _POSSIBLE.items() if test(words, vocabulary)]
            mode = able[op * len(able) // _SPACE]
        if mode == "transpose":
            starts = [i for i in range(len(words) - 1) if words[i] != words[i + 1]]
            i = starts[place * len(starts) // _SPACE]
            return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]
        i = place * len(words) // _SPACE
        middle = {"delete": [], "duplicate": [words[i]] * 2}.get(mode)
        return words[:i] + ([vocabulary.draw_other(words[i], word)] if middle is None else middle) + words[i + 1 :]


def count_edits(words: int, level: int) -> int:
    """How many edits a caption of so many words gets: a tenth of its words a level, half up, 1 to 64."""
    return min(max(1, (words * level + 5) // 10), _MOST)


@dataclass(frozen=True)
class Vocabulary:
    """The distinct words of captions in ascending bytes, and how many words stand before and with each; counted when first asked for."""

    captions: pa.Array

    @cached_property
    def _counted(self) -> tuple[list[str], Ints]:
        parts = [_count_words(self.captions[start : start + _BLOCK]) for start in range(0, len(self.captions), _BLOCK)]
        if not parts:
            return [], np.zeros(0, np.int64)
        table = pa.concat_tables(parts).group_by("word").aggregate([("count", "sum")]).sort_by("word")
        upto = np.cumsum(table["count_sum"].to_numpy())
        if len(upto) and upto[-1] >= _SPACE:
            raise ValueError(f"found {upto[-1]} words in the captions, expected fewer than 2^32")
        return table["word"].to_pylist(), upto

    @property
    def words(self) -> list[str]:
        return self._counted[0]

    def draw_other(self, word: str, u: int) -> str:
        """A word other than this by its frequency; `u` has 32 bits."""
        words, upto = self._counted
        own = bisect_left(words, word)
        before, after = int(upto[own - 1]) if own else 0, int(upto[own])
        drawn = u * (int(upto[-1]) - (after - before)) // _SPACE
        return words[int(np.searchsorted(upto, drawn + (after - before if drawn >= before else 0), side="right"))]


def _count_words(captions: pa.Array) -> pa.Table:
    words = pc.list_flatten(pc.split_pattern(join_words(captions), " "))
    counts = words.filter(pc.not_equal(words, "")).value_counts()
    return pa.table({"word": counts.field("values"), "count": counts.field("counts")})


def _repeats_word(plain: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether a caption, its words with one space between them, is one word over and over."""
    first = pc.replace_substring_regex(plain, " .*", " ")
    count = np.asarray(pc.count_substring(plain, " ")) + 1
    width = np.asarray(pc.binary_length(first)) + (count == 1)
    repeats: npt.NDArray[np.bool_] = (
        width * count == np.asarray(pc.binary_length(plain)) + 1
    )  # so that no text is repeated to more than the caption's length
    places = pa.array(np.flatnonzero(repeats & (count > 1)))
    whole = pc.utf8_rtrim(pc.binary_repeat(first.take(places), pa.array(count).take(places)), " ")
    repeats[np.asarray(places)] = np.asarray(pc.equal(whole, plain.take(places)))
    return repeats


_POSSIBLE: dict[str, Callable[[list[str], Vocabulary], bool]] = {
    "delete": lambda words, _: len(words) > 1,
    "duplicate": lambda words, _: bool(words),
    "transpose": lambda words, _: any(a != b for a, b in pairwise(words)),
    "replace": lambda _, vocabulary: len(vocabulary.words) > 1,
}
