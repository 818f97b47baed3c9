"""Corruptions that exchange captions: SPEC.md section 4."""

from __future__ import annotations

from itertools import repeat
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from corruptkit.corruptions.embeddings import EmbeddingsField
from corruptkit.corruptions.fields import Choice, join_words
from corruptkit.corruptions.pairs import pair_directions, pair_ranks
from corruptkit.corruptions.rows import Decision, Ints, Rows
from corruptkit.draws import U64, Draws, rank_rows


class Swap(Choice):
    """Exchange the captions of chosen pairs of rows."""

    kind: Literal["swap"] = "swap"
    mode: Literal["any", "within", "far", "near"] = "any"
    embeddings: EmbeddingsField | None = None

    @model_validator(mode="after")
    def _check_embeddings(self) -> Self:
        if (self.embeddings is None) == (self.mode in ("far", "near")):
            verb, do = ("takes no", "leave them out or state mode 'far' or 'near'") if self.embeddings else ("needs", "state embeddings")
            raise ValueError(f"swap mode '{self.mode}' {verb} embeddings; {do}")
        return self

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Walk the ranking of the eligible rows and pair them greedily."""
        able = np.zeros(len(rows), np.bool_) if rows.captions is None else np.asarray(rows.captions.is_valid())
        if self.mode == "within":
            able &= rows.real_labels()
        eligible = np.flatnonzero(self.admits(rows) & able)
        places = None if self.embeddings is None else self.embeddings.find_rows(rows.keys.take(pa.array(eligible)))
        count = self.count_rows(len(rows), len(eligible))
        rank = draws.of("rank", rows.hashes[eligible])
        # The walk nearly always ends close to rank n, so most of the ranking is never sorted; where it does not, walk it all.
        reach = min(len(eligible), count + count // 8 + 1024)
        ranked, pairs = self._pair_rows(rows, eligible, places, rank, reach, count // 2)
        if len(pairs) < count // 2 and reach < len(eligible):
            ranked, pairs = self._pair_rows(rows, eligible, places, rank, len(eligible), count // 2)
        order = np.sort(pairs, axis=None)
        partner, since = np.empty((2, len(ranked)), np.int64)
        partner[pairs] = pairs[:, ::-1]
        since[pairs] = 2 * np.arange(1, len(pairs) + 1)[:, None]
        donors = ranked[partner[order]]
        new = rows.captions.take(pa.array(donors)) if rows.captions is not None else pa.array([], pa.large_string())
        return Decision("caption", ranked[order], order, new, donors, since[order], len(eligible), count)

    def _pair_rows(self, rows: Rows, eligible: Ints, places: Ints | None, rank: U64, reach: int, wanted: int) -> tuple[Ints, Ints]:
        """The first `reach` rows of the ranking, and the pairs of ranks that the walk finds among them."""
        order = rank_rows(rank, reach)
        ranked = eligible[order]
        codes = _caption_codes(rows, ranked)
        if self.embeddings is not None and places is not None:
            vectors = self.embeddings.vectors[places[order]]
            return ranked, pair_directions(codes, vectors, wanted, near=self.mode == "near", whole=reach == len(eligible))
        queues = rows.labels[ranked].tolist() if self.mode == "within" and rows.labels is not None else repeat(0)
        return ranked, pair_ranks(codes, queues, wanted)


def _caption_codes(rows: Rows, ranked: Ints) -> list[int]:
    """A number for each caption, equal where SPEC.md calls two captions equal."""
    if rows.captions is None or not len(ranked):
        return []
    text = rows.captions.take(pa.array(ranked))
    plain = pc.ascii_lower(join_words(text))
    codes: list[int] = plain.dictionary_encode().indices.to_pylist()
    return codes
