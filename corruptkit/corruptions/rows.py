"""What a stage sees and what it decides: columns in, edits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corruptkit.draws import U64

Ints = npt.NDArray[np.int64]
FieldName = Literal["label", "caption"]
_LARGEST_TABLE = 1 << 24  # classes; one label of 2^31 must not take a place in memory for each below it


@dataclass(frozen=True)
class Rows:
    """The rows of a split in ascending key bytes, as the stages so far left them.

    `hashes` are h(key); a label of -1 and a null caption mean that the row has none; a column is None where no row has one.
    `classes` is K. A label of K is the declared null label: it is no class.
    """

    keys: pa.Array
    hashes: U64
    labels: Ints | None
    captions: pa.Array | None
    classes: int | None

    def __len__(self) -> int:
        return len(self.keys)

    def real_labels(self) -> npt.NDArray[np.bool_]:
        """Which rows have a label in [0, K)."""
        if self.labels is None or not self.classes:
            return np.zeros(len(self), np.bool_)
        return (self.labels >= 0) & (self.labels < self.classes)

    def class_counts(self) -> tuple[Ints, Ints]:
        """The classes that rows have, ascending, and c_j of each."""
        labels = np.zeros(0, np.int64) if self.labels is None else self.labels[self.real_labels()]
        if labels.max(initial=0) < _LARGEST_TABLE:
            counts = np.bincount(labels)
            present = np.flatnonzero(counts)
            return present, counts[present]
        return np.unique(labels, return_counts=True)


@dataclass(frozen=True)
class Decision:
    """The edits of one stage, in ascending rank: whose value changes, to what, taken from whom (-1: from nobody).

    `new` holds int64 labels or a text array; `eligible` and `selected` are the counts |E| and n of SPEC.md section 3. `since` is the
    least n with which an edit is there: what a smaller ratio decides is a part of what a larger one does (section 7, law 5).
    """

    field: FieldName
    rows: Ints
    rank: Ints
    new: Ints | pa.Array
    donors: Ints
    since: Ints
    eligible: int
    selected: int

    def old_values(self, before: Rows) -> pa.Array:
        """The values that this stage found, as text."""
        column = before.labels if self.field == "label" else before.captions
        assert column is not None, "an edit needs a column to edit"
        return as_text(column[self.rows] if isinstance(column, np.ndarray) else column.take(pa.array(self.rows)))

    def apply(self, before: Rows) -> Rows:
        """The rows as this stage leaves them."""
        if not len(self.rows):
            return before
        if self.field == "label":
            assert before.labels is not None, "a label edit needs labels"
            labels = before.labels.copy()
            labels[self.rows] = self.new
            return replace(before, labels=labels)
        assert before.captions is not None, "a caption edit needs captions"
        source = np.arange(len(before))
        source[self.rows] = len(before) + np.arange(len(self.rows))
        column = pa.chunked_array([before.captions, as_text(self.new)]).take(pa.array(source))
        return replace(before, captions=column.combine_chunks())


@dataclass(frozen=True)
class LabelLaw:
    """What a stage declares of the labels that it gives: who may be hit, all alike, and which class an old one becomes.

    `weights(y)` are the classes that y can become, ascending, and integers in proportion to their chances, given that the row
    is edited; there are `width` of them at most.
    """

    eligible: npt.NDArray[np.bool_]
    weights: Callable[[int], tuple[Ints, Ints]]
    width: int


def as_text(values: Ints | pa.Array) -> pa.Array:
    """Values as the text that plans hold: labels in decimal, captions as they are."""
    return (pa.array(values) if isinstance(values, np.ndarray) else values).cast(pa.large_string())
