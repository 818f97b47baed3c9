"""Corruptions whose new value is known beforehand: no condition, or one that is given. SPEC.md section 4."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from corruptkit.corruptions.fields import Choice, Names, Text
from corruptkit.corruptions.rows import Decision, LabelLaw, Rows
from corruptkit.draws import Draws

_PLACE = "{}"


class Drop(Choice):
    """Take the condition of chosen rows away: their caption becomes empty, or their label the null label K."""

    kind: Literal["drop"] = "drop"
    mode: Literal["caption", "label"] = "caption"

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Rank the rows that have a condition to lose, take the first n."""
        if self.mode == "caption":
            return _decide_captions(self, rows, draws, pa.array([""] * len(rows), pa.large_string()))
        chosen, eligible, count = self.choose(rows, draws, rows.real_labels())
        new = np.full(len(chosen), rows.classes or 0)
        rank = np.arange(len(chosen))
        return Decision("label", chosen, rank, new, np.full(len(chosen), -1), rank + 1, eligible, count)

    def label_law(self, rows: Rows) -> LabelLaw | None:
        """Every class becomes the null label."""
        if self.mode == "caption":
            return None
        return LabelLaw(self.admits(rows) & rows.real_labels(), lambda _: (np.array([rows.classes or 0]), np.ones(1, np.int64)), 1)


class Constant(Choice):
    """Give chosen rows one caption: a text as it stands, or a template with the name of their class."""

    kind: Literal["constant"] = "constant"
    mode: Literal["text", "template"] = "text"
    text: Text
    names: Names | None = None

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if (self.names is None) == (self.mode == "template"):
            verb, do = ("needs", "state names") if self.mode == "template" else ("takes no", "leave them out or state mode 'template'")
            raise ValueError(f"constant mode '{self.mode}' {verb} names; {do}")
        if self.mode == "template" and self.text.count(_PLACE) != 1:
            raise ValueError(f"found {self.text!r:.80} as a template, expected a text with one {_PLACE} for the name")
        return self

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Rank the rows whose caption is another one, take the first n."""
        if self.names is None:
            return _decide_captions(self, rows, draws, pa.array([self.text] * len(rows), pa.large_string()))
        if rows.labels is not None and len(self.names) != rows.classes:
            raise ValueError(f"found {len(self.names)} names, expected one for each of {rows.classes} classes")
        filled = pa.array([self.text.replace(_PLACE, name) for name in self.names], pa.large_string())
        real = rows.real_labels()
        labels = np.zeros(len(rows), np.int64) if rows.labels is None else rows.labels
        return _decide_captions(self, rows, draws, filled.take(pa.array(labels, mask=~real)))


def _decide_captions(choice: Choice, rows: Rows, draws: Draws, wanted: pa.Array) -> Decision:
    """Give the first n rows of the ranking the caption that is wanted of them (null: none is); eligible are those with another one."""
    able = np.zeros(len(rows), np.bool_)
    if rows.captions is not None:
        able = np.asarray(pc.fill_null(pc.not_equal(rows.captions, wanted), False))
    chosen, eligible, count = choice.choose(rows, draws, able)
    rank = np.arange(len(chosen))
    return Decision("caption", chosen, rank, wanted.take(pa.array(chosen)), np.full(len(chosen), -1), rank + 1, eligible, count)
