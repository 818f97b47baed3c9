"""Pearson's chi-square: counts against expectations, cells pooled, and the tail that gives the p-value."""

from __future__ import annotations

from math import exp, lgamma, log
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEAST = 5  # a cell is expected to hold as many, or it is pooled with the next
_TINY = 1e-300
_CLOSE = 4e-15

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Cells(NamedTuple):
    """Cells of one total: how many fell into each, and how many were expected to."""

    observed: Floats
    expected: Floats

    @property
    def statistic(self) -> float:
        """The sum of (observed - expected)^2 / expected."""
        return float(((self.observed - self.expected) ** 2 / self.expected).sum())


def pool_cells(observed: npt.ArrayLike, expected: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> Cells:
    """Neighbouring cells joined, from the first on, until each pool's weight is 5 or more; a last one of less joins the pool before.

    The weight is the expectation, unless another is given.
    """
    seen, hoped = np.asarray(observed, np.float64), np.asarray(expected, np.float64)
    heavy = hoped if weight is None else np.asarray(weight, np.float64)
    seen, hoped, heavy = seen[heavy > 0], hoped[heavy > 0], heavy[heavy > 0]
    if not len(heavy):
        return Cells(seen, hoped)
    starts, held = [0], 0.0
    # Runs of light cells are joined in one pass, to pools that begin in one interval of 5; what is short of 5 then, one by one.
    runs = np.flatnonzero(np.diff(np.floor((np.cumsum(heavy) - heavy) / LEAST), prepend=-1.0))
    for start, light in zip(runs.tolist(), np.add.reduceat(heavy, runs).tolist(), strict=True):
        if held >= LEAST - 1e-9:
            starts.append(start)
            held = 0.0
        held += light
    if held < LEAST - 1e-9 and len(starts) > 1:
        starts.pop()
    return Cells(np.add.reduceat(seen, starts), np.add.reduceat(hoped, starts))


def upper_tail(statistic: float, degrees: int) -> float:
    """The probability that chi-square with so many degrees of freedom is as large or larger."""
    return upper_gamma(degrees / 2, statistic / 2)


def upper_gamma(a: float, x: float) -> float:
    """The regularised incomplete gamma function Q(a, x), a > 0, x >= 0, to about ten digits (NIST DLMF, section 8.2(i))."""
    if x <= 0:
        return 1.0
    front = exp(a * log(x) - x - lgamma(a + 1))  # x^a e^-x / Gamma(a + 1)
    return 1 - front * _sum_series(a, x) if x < a + 1 else front * a * _sum_fraction(a, x)


def _sum_series(a: float, x: float) -> float:
    """DLMF 8.7.1, divided by e^-x / Gamma(a + 1): the sum of x^k / ((a + 1) ... (a + k))."""
    total = term = 1.0
    k = 0
    while term > total * _CLOSE:
        k += 1
        term *= x / (a + k)
        total += term
    return total


def _sum_fraction(a: float, x: float) -> float:
    """The even part of the continued fraction DLMF 8.9.2, times e^x x^-a; evaluated forwards by Lentz's algorithm (DLMF 3.10(iii))."""
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    value, k, step = d, 0, 0.0
    while abs(step - 1) > _CLOSE:
        k += 1
        weight, b = k * (a - k), b + 2
        d = 1 / ((weight * d + b) or _TINY)
        c = (b + weight / c) or _TINY
        step = c * d
        value *= step
    return value
