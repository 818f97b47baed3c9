"""Corruptions of class labels: SPEC.md section 4."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from corruptkit.corruptions.fields import Choice, Groups, Matrix
from corruptkit.corruptions.rows import Decision, Ints, LabelLaw, Rows
from corruptkit.draws import U64, Draws, below

Mask = npt.NDArray[np.bool_]
_SCALE = 1 << 32  # a row of weights is quantised to integers that sum to this
_NEEDS = {"within": "groups", "matrix": "matrix"}


class Flip(Choice):
    """Give chosen rows another class."""

    kind: Literal["flip"] = "flip"
    mode: Literal["uniform", "prior", "within", "pair", "matrix", "redraw"] = "uniform"
    groups: Groups | None = None
    matrix: Matrix | None = None

    @model_validator(mode="after")
    def _check_tables(self) -> Self:
        for mode, name in _NEEDS.items():
            if (getattr(self, name) is None) == (self.mode == mode):
                verb, do = ("needs", f"state {name}") if self.mode == mode else ("takes no", f"leave them out or state mode '{mode}'")
                raise ValueError(f"flip mode '{self.mode}' {verb} {name}; {do}")
        return self

    def decide(self, rows: Rows, draws: Draws) -> Decision:
        """Rank the eligible rows, take the first n, draw each a target."""
        self._check_classes(rows)
        chosen, eligible, count = self.choose(rows, draws, self._can_change(rows))
        old = np.zeros(0, np.int64) if rows.labels is None else rows.labels[chosen]
        new = _TARGETS[self.mode](self, draws.of("target", rows.hashes[chosen]), old, rows)
        real = new != old  # only `redraw` can draw the class that was there
        rank = np.flatnonzero(real)
        return Decision("label", chosen[real], rank, new[real], np.full(len(rank), -1), rank + 1, eligible, count)

    def label_law(self, rows: Rows) -> LabelLaw:
        """The law of the mode, beside which a plan's targets are counted."""
        weights, width = _LAWS[self.mode](self, rows)
        return LabelLaw(self.admits(rows) & self._can_change(rows), weights, width)

    def _check_classes(self, rows: Rows) -> None:
        classes = rows.classes or 0
        if rows.labels is not None and self.groups and max(map(max, self.groups)) >= classes:
            raise ValueError(f"groups name class {max(map(max, self.groups))}, expected classes below {classes}")
        if rows.labels is not None and self.matrix is not None and len(self.matrix) != classes:
            raise ValueError(f"the matrix has {len(self.matrix)} rows, expected one for each of {classes} classes")
        if len(rows) >= _SCALE or classes >= _SCALE:
            raise ValueError(f"found {len(rows)} rows and {classes} classes, expected fewer than 2^32")

    def _can_change(self, rows: Rows) -> Mask:
        """Which rows have a class that the mode can change."""
        real = rows.real_labels()
        if rows.labels is None:
            return real
        if self.groups is not None:
            return real & np.isin(rows.labels, [member for group in self.groups if len(group) > 1 for member in group])
        if self.matrix is not None:
            able: Mask = np.array([any(Fraction(cell) > 0 for cell in row) for row in self.matrix] + [False])
            return real & able[np.clip(rows.labels, -1, len(self.matrix))]
        choices = len(rows.class_counts()[0]) if self.mode == "prior" else rows.classes or 0
        return real & (self.mode == "redraw" or choices >= 2)


def _target_uniform(flip: Flip, u: U64, old: Ints, rows: Rows) -> Ints:
    drawn = below(u, max((rows.classes or 0) - 1, 0))
    return drawn + (drawn >= old)


def _target_prior(flip: Flip, u: U64, old: Ints, rows: Rows) -> Ints:
    """The walk over c_j without y, as one search: draws at or past y's share skip over it."""
    present, counts = rows.class_counts()
    if not len(old):
        return old
    upto, own = np.cumsum(counts), np.searchsorted(present, old)
    drawn = below(u, upto[-1] - counts[own])
    before = (upto - counts)[own]
    return present[np.searchsorted(upto, drawn + np.where(drawn >= before, counts[own], 0), side="right")]


def _target_within(flip: Flip, u: U64, old: Ints, rows: Rows) -> Ints:
    assert flip.groups is not None, "checked by the model"
    group_of = {member: members for members in map(np.array, flip.groups) for member in members.tolist()}
    new = old.copy()
    for label in np.unique(old):
        mine = old == label
        others = group_of[int(label)][group_of[int(label)] != label]
        new[mine] = others[below(u[mine], len(others))]
    return new


def _target_pair(flip: Flip, u: U64, old: Ints, rows: Rows) -> Ints:
    return (old + 1) % max(rows.classes or 0, 1)


def _target_matrix(flip: Flip, u: U64, old: Ints, rows: Rows) -> Ints:
    assert flip.matrix is not None, "checked by the model"
    new = old.copy()
    for label in np.unique(old):
        mine = old == label
        sums = np.array(list(accumulate(quantise_weights(flip.matrix[label]))), np.uint64)
        new[mine] = np.searchsorted(sums, u[mine] >> np.uint64(32), side="right")
    return new


def _target_redraw(flip: Flip, u: U64, old: Ints, rows: Rows) -> Ints:
    return below(u, rows.classes or 0)


_TARGETS: dict[str, Callable[[Flip, U64, Ints, Rows], Ints]] = {
    "uniform": _target_uniform,
    "prior": _target_prior,
    "within": _target_within,
    "pair": _target_pair,
    "matrix": _target_matrix,
    "redraw": _target_redraw,
}


Law = tuple[Callable[[int], tuple[Ints, Ints]], int]


def _alike(classes: Ints, old: int) -> tuple[Ints, Ints]:
    others = classes[classes != old]
    return others, np.ones(len(others), np.int64)


def _law_uniform(flip: Flip, rows: Rows) -> Law:
    """Of `redraw` too: a row that drew its own class is no edit, and the others are alike."""
    classes = rows.classes or 0
    return lambda old: _alike(np.arange(classes), old), classes - 1


def _law_prior(flip: Flip, rows: Rows) -> Law:
    present, counts = rows.class_counts()
    return lambda old: (present[present != old], counts[present != old]), len(present)


def _law_within(flip: Flip, rows: Rows) -> Law:
    assert flip.groups is not None, "checked by the model"
    group_of = {member: members for members in map(np.array, flip.groups) for member in members.tolist()}
    return lambda old: _alike(group_of.get(old, np.zeros(0, np.int64)), old), max(map(len, flip.groups), default=0)


def _law_pair(flip: Flip, rows: Rows) -> Law:
    return lambda old: (np.array([(old + 1) % max(rows.classes or 0, 1)]), np.ones(1, np.int64)), 1


def _law_matrix(flip: Flip, rows: Rows) -> Law:
    assert flip.matrix is not None, "checked by the model"
    matrix = flip.matrix

    def weigh_row(old: int) -> tuple[Ints, Ints]:
        weights = np.array(quantise_weights(matrix[old]) if any(Fraction(cell) > 0 for cell in matrix[old]) else [], np.int64)
        return np.flatnonzero(weights), weights[weights > 0]

    return weigh_row, len(matrix)


# What each mode declares of its targets, written apart from how they are drawn.
_LAWS: dict[str, Callable[[Flip, Rows], Law]] = {
    "uniform": _law_uniform,
    "prior": _law_prior,
    "within": _law_within,
    "pair": _law_pair,
    "matrix": _law_matrix,
    "redraw": _law_uniform,
}


def quantise_weights(weights: tuple[str, ...]) -> list[int]:
    """Integers that sum to 2^32 in proportion to decimal weights, by largest remainder; ties go to the lower class."""
    places = max(len(weight.partition(".")[2]) for weight in weights)
    exact = [int(whole + part.ljust(places, "0")) for whole, _, part in (weight.partition(".") for weight in weights)]
    total = sum(exact)
    shares = [divmod(weight * _SCALE, total) for weight in exact]
    quantised = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(shares)), key=lambda j: (-shares[j][1], j))
    for j in by_remainder[: _SCALE - sum(quantised)]:
        quantised[j] += 1
    return quantised
