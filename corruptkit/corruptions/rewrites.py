"""Corruptions whose new captions somebody has written beforehand: SPEC.md section 4."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from corruptkit.corruptions.fields import Choice, Table
from corruptkit.corruptions.rows import Decision, Ints, Rows
from corruptkit.corruptions.texts import Texts, list_texts
from corruptkit.draws import Draws, below

WANTED = pa.schema([("key", pa.large_string()), ("level", pa.int64()), ("caption", pa.large_string())])


class _Chosen(NamedTuple):
    """The rows of a stage in ascending rank, the level of each, and its text (null: the table has none)."""

    rows: Ints
    levels: Ints
    texts: pa.Array
    eligible: int
    selected: int


class Rewrite(Choice):
    """Give chosen rows another wording from a table, at a level of corruption that each row draws."""

    kind: Literal["rewrite"] = "rewrite"
    mode: Literal["table"] = "table"
    levels: Annotated[int, Field(strict=True, ge=1, lt=1 << 32)] = 5
    table: Table = Field(default_factory=lambda: Texts.of(list_texts([])))

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        high = pc.greater(self.table.rows["level"], self.levels)
        if pc.any(high).as_py():
            key, level = (self.table.rows[name].filter(high)[0].as_py() for name in ("key", "level"))
            raise ValueError(f"found level {level} of {key!r:.80} in the table, expected levels of 1 to {self.levels}; mend either")
        return self

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Rank the rows that their text would change, take the first n. A text that is missing refuses them all."""
        chosen = self._choose_rows(rows, draws)
        if chosen.texts.null_count:
            raise ValueError(self._tell_missing(rows, draws, chosen))
        rank, donors = np.arange(len(chosen.rows)), np.full(len(chosen.rows), -1)
        return Decision("caption", chosen.rows, rank, chosen.texts, donors, rank + 1, chosen.eligible, chosen.selected)

    def list_missing(self, rows: Rows, draws: Draws) -> pa.Table:
        """The chosen rows whose text the table lacks, in the order of their ranking: key, level, caption."""
        chosen = self._choose_rows(rows, draws)
        absent = np.asarray(chosen.texts.is_null())
        take = pa.array(chosen.rows[absent])
        captions = pa.nulls(0, pa.large_string()) if rows.captions is None else rows.captions.take(take)
        return pa.table([rows.keys.take(take), pa.array(chosen.levels[absent]), captions], WANTED)

    def _choose_rows(self, rows: Rows, draws: Draws) -> _Chosen:
        levels = 1 + below(draws.of("level", rows.hashes), self.levels)
        texts = self.table.find(rows.keys, levels)
        able = np.zeros(len(rows), np.bool_)
        if rows.captions is not None:  # a caption without a text may change: nobody knows yet
            able = np.asarray(pc.and_(rows.captions.is_valid(), pc.fill_null(pc.not_equal(rows.captions, texts), True)))
        chosen, eligible, count = self.choose(rows, draws, able)
        return _Chosen(chosen, levels[chosen], texts.take(pa.array(chosen)), eligible, count)

    def _tell_missing(self, rows: Rows, draws: Draws, chosen: _Chosen) -> str:
        first = int(np.flatnonzero(np.asarray(chosen.texts.is_null()))[0])
        key = rows.keys[int(chosen.rows[first])].as_py()
        found = f"{chosen.texts.null_count} of {chosen.selected} chosen rows have no text in the table, first {key!r:.80} at level"
        plain = self.of == "all" and self.where is None and "@" not in draws.name
        what = f"--ratio {self.ratio} --seed {draws.seed} --levels {self.levels}" if plain else "--recipe FILE"
        do = f"make them with: python pipelines/rewrite_captions.py SOURCE {what} --table FILE"
        return f"{found} {chosen.levels[first]}, expected a text for each; {do}"
