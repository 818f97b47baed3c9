"""Corruptions of captions: SPEC.md section 4."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.corruptions.fields import Choice
from corruptkit.corruptions.rows import Decision, Ints, Rows
from corruptkit.draws import U64, Draws, rank_rows

# What becomes one space; a space alone is one already, and matching each of them would take most of a plan's time.
_RUN = "[\t\n\v\f\r ]{2,}|[\t\n\v\f\r]"


class Swap(Choice):
    """Exchange the captions of chosen pairs of rows."""

    kind: Literal["swap"] = "swap"
    mode: Literal["any"] = "any"

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Walk the ranking of the eligible rows and pair them greedily."""
        has = np.zeros(len(rows), np.bool_) if rows.captions is None else np.asarray(rows.captions.is_valid())
        eligible = np.flatnonzero(self.admits(rows) & has)
        count = self.count_rows(len(rows), len(eligible))
        rank = draws.of("rank", rows.hashes[eligible])
        # The walk nearly always ends close to rank n, so most of the ranking is never sorted; where it does not, walk it all.
        reach = min(len(eligible), count + count // 8 + 1024)
        ranked, pairs = _pair_rows(rows, eligible, rank, reach, count // 2)
        if len(pairs) < count // 2:
            ranked, pairs = _pair_rows(rows, eligible, rank, len(eligible), count // 2)
        order = np.sort(pairs, axis=None)
        partner = np.empty(len(ranked), np.int64)
        partner[pairs] = pairs[:, ::-1]
        donors = ranked[partner[order]]
        new = rows.captions.take(pa.array(donors)) if rows.captions is not None else pa.array([], pa.large_string())
        return Decision("caption", ranked[order], order, new, donors, len(eligible), count)


def _pair_rows(rows: Rows, eligible: Ints, rank: U64, reach: int, wanted: int) -> tuple[Ints, Ints]:
    """The first `reach` rows of the ranking, and the pairs of ranks that the walk finds among them."""
    ranked = eligible[rank_rows(rank, reach)]
    return ranked, pair_ranks(_caption_codes(rows, ranked), wanted)


def pair_ranks(codes: Iterable[int], wanted: int) -> Ints:
    """The normative walk: pairs of ranks, (wanted or fewer, 2), whose codes differ.

    Whoever waits in the queue has the same caption, since a row that differs from the first leaves with it at once.
    """
    pairs: list[tuple[int, int]] = []
    waiting: deque[int] = deque()
    held = -1
    for rank, code in enumerate(codes):
        if len(pairs) == wanted:
            break
        if waiting and code != held:
            pairs.append((waiting.popleft(), rank))
        else:
            waiting.append(rank)
            held = code
    return np.array(pairs, np.int64).reshape(-1, 2)


def _caption_codes(rows: Rows, ranked: Ints) -> list[int]:
    """A number for each caption, equal where SPEC.md calls two captions equal."""
    if rows.captions is None or not len(ranked):
        return []
    text = rows.captions.take(pa.array(ranked))
    plain = pc.ascii_lower(pc.utf8_trim(pc.replace_substring_regex(text, _RUN, " "), " "))
    codes: list[int] = plain.dictionary_encode().indices.to_pylist()
    return codes
