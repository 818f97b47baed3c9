"""Draws look like chance: every target, class, rank, partner, stage and seed beside its law, over twenty seeds; a broken draw does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from corruptkit.accounting import Fit, compare_hits, describe_plan
from corruptkit.chisquare import pool_cells, upper_tail
from corruptkit.corruptions import Corruption, Flip, Swap, Words
from corruptkit.draws import Draws
from corruptkit.index import Index
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe
from tests.corruptkit.shards import Row
from tests.corruptkit.strategies import index_rows

ROWS, K, SEEDS = 4000, 8, range(20)
LEAST_P = 1e-4
# Classes of unlike sizes, and captions of which one in five is the same.
TABLE = [Row(f"{i:09d}", min(i % 11, K - 1), "the same" if i % 5 == 0 else f"thing {i}") for i in range(ROWS)]
MATRIX = [[str((3 * y + 5 * j) % 7) for j in range(K)] for y in range(K)]
FLIPS = {
    "uniform": Flip(ratio="0.2"),
    "prior": Flip(ratio="0.2", mode="prior"),
    "within": Flip(ratio="0.2", mode="within", groups=[[0, 1, 2], [3, 4, 5, 7]]),
    "pair": Flip(ratio="0.2", mode="pair"),
    "matrix": Flip(ratio="0.2", mode="matrix", matrix=MATRIX),
    "redraw": Flip(ratio="0.2", mode="redraw"),
    "few of a class": Flip(ratio="0.01", mode="prior"),
}


@pytest.fixture(scope="module")
def index() -> Index:
    return index_rows(TABLE, classes=K)


def table_p(rows: Any, columns: Any) -> float:
    """The p-value of a contingency table: whether two numberings of the same things know nothing of each other."""
    counts = np.zeros((int(max(rows)) + 1, int(max(columns)) + 1))
    np.add.at(counts, (rows, columns), 1)
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    expected = np.outer(counts.sum(1), counts.sum(0)) / counts.sum()
    assert expected.min() >= 5, "cells too small to judge"
    return upper_tail(float(((counts - expected) ** 2 / expected).sum()), (counts.shape[0] - 1) * (counts.shape[1] - 1))


def uniform_p(shares: Any, bins: int = 20) -> float:
    """The p-value of numbers in [0, 1) being uniform."""
    observed = np.bincount((np.asarray(shares) * bins).astype(int), minlength=bins)
    table = pool_cells(observed, np.full(bins, len(shares) / bins))
    return upper_tail(table.statistic, len(table.expected) - 1)


def places_p(rows: Any) -> float:
    """The p-value of rows being drawn from anywhere in the source."""
    value = compare_hits(np.arange(ROWS) * 16 // ROWS, np.asarray(rows) * 16 // ROWS).p_value
    assert value is not None
    return value


def expect_chance(values: list[float], what: str) -> None:
    """No p-value is too small, none too good, and together they are uniform by Kolmogorov and Smirnov."""
    found = np.sort(values)
    assert found[0] > LEAST_P, f"{what}: p = {found[0]}"
    assert found[-1] < 1 - LEAST_P, f"{what}: too even, p = {found[-1]}"
    distance = np.abs(found - (np.arange(len(found)) + 0.5) / len(found)).max() + 0.5 / len(found)
    assert distance * np.sqrt(len(found)) < 2.23, f"{what}: the p-values are not uniform"  # p = 1e-4


def row_draws(index: Index, seed: int, purpose: str, name: str = "flip") -> Any:
    """Draws as numbers in [0, 1)."""
    return Draws(str(seed), name).of(purpose, index.rows().hashes) / 2.0**64


def label_fits(index: Index, corruption: Corruption) -> Iterator[tuple[Fit | None, Fit | None]]:
    for seed in SEEDS:
        labels = describe_plan(make_plan(Recipe(seed=seed, chain=[corruption]), index), index).stages[0].labels
        assert labels is not None
        yield labels.targets, labels.classes


@pytest.mark.parametrize("mode", FLIPS)
def test_targets_and_classes_are_as_the_mode_declares(index: Index, mode: str) -> None:
    found = list(label_fits(index, FLIPS[mode]))
    assert all(fit is not None and fit.outside == 0 for fits in found for fit in fits)
    expect_chance([fit.p_value for _, fit in found if fit and fit.p_value is not None], f"{mode}: classes")
    targets = [fit.p_value for fit, _ in found if fit and fit.p_value is not None]
    assert len(targets) == (0 if mode == "pair" else len(SEEDS))
    if targets:
        expect_chance(targets, f"{mode}: targets")


def test_ranks_are_uniform_over_positions_and_classes(index: Index) -> None:
    """The first eighth of the ranking lies anywhere in the source, and in each class by its share."""
    labels = np.array([row.label for row in TABLE])
    first = [np.argsort(row_draws(index, seed, "rank"))[: ROWS // 8] for seed in SEEDS]
    expect_chance([places_p(rows) for rows in first], "positions")
    expect_chance([uniform_p(row_draws(index, seed, "rank")) for seed in SEEDS], "draws")
    order = [np.argsort(np.argsort(row_draws(index, seed, "rank"))) * 10 // ROWS for seed in SEEDS]
    expect_chance([table_p(tenths, labels) for tenths in order], "tenths of the ranking beside classes")


@pytest.mark.parametrize("mode", ["any", "within"])
def test_partners_of_swaps_lie_anywhere(index: Index, mode: Any) -> None:
    """A partner's place says nothing of the row's, and tells as little which caption it brings."""
    places, tables = [], []
    for seed in SEEDS:
        edits = make_plan(Recipe(seed=seed, chain=[Swap(ratio="0.4", mode=mode)]), index).edits
        row, donor = (np.array([int(key) for key in edits[name].to_pylist()]) for name in ("key", "donor"))
        once = row < donor  # a pair is one observation
        flipped = row_draws(index, seed, "coin")[row[once]] < 0.5
        a, b = np.where(flipped, row[once], donor[once]), np.where(flipped, donor[once], row[once])
        places.append(places_p(row))
        tables.append(table_p(a % 7, b % 7))
    expect_chance(places, "places")
    expect_chance(tables, "partners")


@pytest.mark.parametrize("mode", ["far", "near"])
def test_pairs_by_direction_lie_anywhere(index: Index, mode: Any) -> None:
    """Which rows are taken, from where in the source and of which class: embeddings choose the partner, not who is drawn."""
    vectors = np.stack([np.cos(np.arange(ROWS) * k) for k in (1.0, 2.0, 3.0, 5.0)], axis=1)  # turns that know nothing of the row
    table = pa.table({"key": [row.key for row in TABLE], "embedding": vectors.tolist()})
    swap, labels = Swap(ratio="0.2", mode=mode, embeddings=table), np.array([row.label for row in TABLE])
    places, classes = [], []
    for seed in SEEDS:
        edits = make_plan(Recipe(seed=seed, chain=[swap]), index).edits
        first = np.argsort(edits["rank"].to_numpy())[: len(edits) // 4]  # those that waited first have been taken by their rank
        rows = np.array([int(key) for key in edits["key"].to_pylist()])[first]
        places.append(places_p(rows))
        value = compare_hits(labels, labels[rows]).p_value
        assert value is not None
        classes.append(value)
    expect_chance(places, f"{mode}: places")
    expect_chance(classes, f"{mode}: classes")


def test_edits_of_words_are_uniform() -> None:
    """Which captions, which of an edit's four kinds, which word of ten goes: each by its share; a kind says nothing of the place."""
    rows = [Row(f"{i:09d}", i % K, " ".join(f"w{(7 * i + j) % 9000}" for j in range(10))) for i in range(ROWS)]
    index = index_rows(rows, classes=K)
    places, kinds, gone, twice = [], [], [], []
    for seed in SEEDS:
        edits = make_plan(Recipe(seed=seed, chain=[Words(ratio="0.4")]), index).edits
        places.append(places_p([int(key) for key in edits["key"].to_pylist()]))
        told = [_tell_edit(old.split(), new.split()) for old, new in zip(edits["old"].to_pylist(), edits["new"].to_pylist(), strict=True)]
        kinds.append(uniform_p([("delete", "duplicate", "transpose", "replace").index(kind) / 4 for kind, _ in told], 4))
        gone.append(uniform_p([(place + 0.5) / 10 for kind, place in told if kind in ("delete", "replace")], 10))
        lone = [(int(kind == "delete"), place) for kind, place in told if kind != "transpose"]
        twice.append(table_p(*zip(*lone, strict=True)))
    for values, what in ((places, "places"), (kinds, "kinds"), (gone, "words"), (twice, "kinds beside words")):
        expect_chance(values, what)


def _tell_edit(old: list[str], new: list[str]) -> tuple[str, int]:
    """The one edit that was done to ten words, all of them distinct, and where."""
    place = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    if len(new) == len(old):
        return ("transpose" if sorted(old) == sorted(new) else "replace"), place
    return ("delete", place) if len(new) < len(old) else ("duplicate", place - 1)


@pytest.mark.parametrize(
    ("what", "one", "other"),
    [
        ("purposes", ("rank", "flip", 0), ("target", "flip", 0)),
        ("stages", ("rank", "flip", 0), ("rank", "flip@1", 0)),
        ("targets of stages", ("target", "flip", 0), ("target", "flip@2", 0)),
        ("kinds", ("rank", "flip", 0), ("rank", "swap", 0)),
        ("seeds", ("rank", "flip", 0), ("rank", "flip", 1)),
        ("far seeds", ("target", "flip", 0), ("target", "flip", 1 << 64)),
    ],
)
def test_draws_know_nothing_of_each_other(index: Index, what: str, one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    found = []
    for seed in SEEDS:
        a, b = ((row_draws(index, seed + plus, purpose, name) * 12).astype(int) for purpose, name, plus in (one, other))
        found.append(table_p(a, b))
    expect_chance(found, what)


def test_neighbouring_rows_know_nothing_of_each_other(index: Index) -> None:
    """Keys that differ in their last digit alone."""
    draws = [(row_draws(index, seed, "target") * 12).astype(int) for seed in SEEDS]
    expect_chance([table_p(draw[:-1:2], draw[1::2]) for draw in draws], "neighbours")


# What is broken is found


class Crossed(Draws):
    """A target that is the rank's draw."""

    def of(self, purpose: str, hashes: Any) -> Any:
        return super().of("rank" if purpose == "target" else purpose, hashes)


class LowBits(Draws):
    """A target that is made of the low bits of the key's number, as a counter would be."""

    def of(self, purpose: str, hashes: Any) -> Any:
        return super().of(purpose, hashes) if purpose == "rank" else (np.sort(hashes) << np.uint64(40)) & np.uint64(3 << 62)


class Sticky(Draws):
    """Ranks that prefer rows that come early."""

    def of(self, purpose: str, hashes: Any) -> Any:
        drawn = super().of(purpose, hashes)
        drawn[: len(drawn) // 4] //= np.uint64(2)
        return drawn


@pytest.mark.parametrize("broken", [Crossed, LowBits])
def test_checker_finds_targets_of_a_broken_draw(index: Index, monkeypatch: pytest.MonkeyPatch, broken: type[Draws]) -> None:
    monkeypatch.setattr(Recipe, "stage_draws", lambda recipe, _: broken(recipe.seed, "flip"))
    values = [fit.p_value for fit, _ in label_fits(index, FLIPS["uniform"]) if fit and fit.p_value is not None]
    with pytest.raises(AssertionError, match="p = "):
        expect_chance(values, "targets")


@pytest.mark.parametrize("mode", ["prior", "within", "matrix", "redraw"])
def test_checker_finds_targets_of_another_law(index: Index, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Targets of `uniform` beside the law of each mode: what another law rules out, or makes rare."""
    drawn = FLIPS["uniform"].model_copy(update={"ratio": "0.5"})
    plan = make_plan(Recipe(seed=0, chain=[drawn]), index)
    declared = FLIPS[mode].model_copy(update={"ratio": "0.5"})
    monkeypatch.setattr(Flip, "label_law", lambda _, rows, law=Flip.label_law: law(declared, rows))
    labels = describe_plan(plan, index).stages[0].labels
    assert labels is not None
    assert labels.targets is not None
    agrees = labels.targets.outside == 0 and (labels.targets.p_value or 0) > LEAST_P
    assert agrees == (mode == "redraw")  # the one whose targets are those of `uniform`, given a change


def test_checker_finds_ranks_of_a_broken_draw(index: Index) -> None:
    hashes = index.rows().hashes
    first = [np.argsort(Sticky(str(seed), "flip").of("rank", hashes))[: ROWS // 8] for seed in SEEDS]
    with pytest.raises(AssertionError, match="positions: p = "):
        expect_chance([places_p(rows) for rows in first], "positions")


def test_checker_finds_draws_that_are_the_same(index: Index) -> None:
    draws = [(row_draws(index, seed, "rank") * 12).astype(int) for seed in SEEDS]
    with pytest.raises(AssertionError, match="p = 0"):
        expect_chance([table_p(draw, draw) for draw in draws], "the same")


def test_checker_finds_draws_that_are_too_even() -> None:
    with pytest.raises(AssertionError, match="too even"):
        expect_chance([uniform_p((np.arange(1000) + 0.5) / 1000) for _ in SEEDS], "a grid")
