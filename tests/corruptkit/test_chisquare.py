"""Chi-square: its tail against closed forms and printed tables, pools by their rule, and p-values that are uniform."""

from __future__ import annotations

from math import erfc, exp, factorial, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.chisquare import LEAST, pool_cells, upper_gamma, upper_tail
from tests.corruptkit.strategies import examples

# Critical values as tables of chi-square print them: degrees of freedom, then those of p = 0.99, 0.95, 0.5, 0.05, 0.01 and 0.001.
PRINTED = {
    1: (0.000157, 0.00393, 0.455, 3.841, 6.635, 10.828),
    2: (0.0201, 0.103, 1.386, 5.991, 9.210, 13.816),
    3: (0.115, 0.352, 2.366, 7.815, 11.345, 16.266),
    5: (0.554, 1.145, 4.351, 11.070, 15.086, 20.515),
    10: (2.558, 3.940, 9.342, 18.307, 23.209, 29.588),
    30: (14.953, 18.493, 29.336, 43.773, 50.892, 59.703),
    100: (70.065, 77.929, 99.334, 124.342, 135.807, 149.449),
}
SHARES = (0.99, 0.95, 0.5, 0.05, 0.01, 0.001)


@pytest.mark.parametrize("degrees", PRINTED)
def test_tail_is_that_of_printed_tables(degrees: int) -> None:
    found = [upper_tail(value, degrees) for value in PRINTED[degrees]]
    assert found == pytest.approx(SHARES, rel=4e-3)


@examples(300)
@given(st.integers(1, 60), st.floats(0, 200))
def test_whole_a_is_a_sum_of_poisson_terms(a: int, x: float) -> None:
    """DLMF 8.4.10."""
    expected = exp(-x) * sum(x**k / factorial(k) for k in range(a))
    assert upper_gamma(a, x) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@examples(300)
@given(st.floats(0, 300))
def test_half_is_the_complementary_error_function(x: float) -> None:
    """DLMF 8.4.6."""
    assert upper_gamma(0.5, x) == pytest.approx(erfc(sqrt(x)), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(
    ("a", "x", "expected"),  # mpmath 1.3.0 with forty digits; scipy 1.17.1 has the same
    [
        (0.5, 1e-12, 0.9999988716208329),
        (6000, 6000, 0.49828322417977144),
        (6000, 6300, 6.821871070536589e-05),
        (6000, 5700, 0.9999584297463047),
        (1e5, 1.01e5, 0.0008084215129255907),
        (1000, 1500, 2.204698611388996e-43),
    ],
)
def test_large_arguments(a: float, x: float, expected: float) -> None:
    assert upper_gamma(a, x) == pytest.approx(expected, rel=1e-8, abs=0)


def test_ends_of_the_tail() -> None:
    assert upper_tail(0, 3) == 1
    assert upper_tail(1e9, 3) == 0


def test_tail_is_that_of_scipy() -> None:
    special = pytest.importorskip("scipy.special")
    for a in (0.5, 1, 4.5, 50, 1000, 1e5):
        for share in (0.01, 0.5, 0.9, 0.99, 1, 1.01, 1.1, 2, 20):
            assert upper_gamma(a, a * share) == pytest.approx(special.gammaincc(a, a * share), rel=1e-9, abs=1e-290)


@pytest.mark.parametrize(
    ("expected", "pools"),
    [
        ([5, 5, 5], [5, 5, 5]),
        ([1, 4, 1, 4, 1], [5, 6]),  # the last one of less joins the pool before
        ([1, 1, 1], [3]),
        ([9, 0, 1, 9], [9, 10]),  # what the law rules out has no place
        ([4, 4, 4, 4], [8, 8]),
        ([0.5] * 30, [5, 5, 5]),
        ([100, 1, 1, 100], [100, 102]),
        ([], []),
    ],
)
def test_neighbours_are_pooled_to_an_expectation_of_five(expected: list[float], pools: list[float]) -> None:
    assert pool_cells(expected, expected).expected.tolist() == pools


@examples(200)
@given(st.lists(st.floats(0, 30) | st.sampled_from([0.065, 1 / 3, 4.999]), max_size=60))
def test_pools_keep_the_sum_and_hold_five(expected: list[float]) -> None:
    pools = pool_cells(expected, expected)
    assert pools.expected.sum() == pytest.approx(sum(expected))
    assert len(pools.expected) < 2 or pools.expected.min() >= LEAST - 1e-6


def test_statistic_is_that_of_a_hand() -> None:
    assert pool_cells([16, 18, 16, 14, 12, 12], [16, 16, 16, 16, 16, 8]).statistic == 0.25 + 0.25 + 1 + 2


def test_p_values_of_honest_counts_are_uniform() -> None:
    draw = np.random.default_rng(1)
    chances = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01])
    found = [pool_cells(draw.multinomial(200, chances), 200 * chances) for _ in range(2000)]
    values = np.sort([upper_tail(table.statistic, len(table.expected) - 1) for table in found])
    assert np.abs(values - (np.arange(2000) + 0.5) / 2000).max() < 0.045  # Kolmogorov-Smirnov, p = 0.001 and a step
