"""At the size of ImageNet and CC3M: exact counts, every class reached; and draws that are uniform and independent."""

from __future__ import annotations

from math import erfc, sqrt

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from corruptkit.corruptions import Flip, Swap
from corruptkit.index import Index, ShardStat, make_index
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe
from tests.corruptkit.shards import make_rows
from tests.corruptkit.strategies import index_rows

pytestmark = pytest.mark.xdist_group("scale")  # one large index at a time

IMAGENET, CC3M = 1_281_167, 2_905_954


def large_index(count: int, *, classes: int | None = None, captions: int | None = None) -> Index:
    """Rows "000000000", ...: labels i mod `classes`, captions "a photo of thing {i mod captions}"."""
    numbers = pa.array(np.arange(count))
    place = pa.array(np.zeros(count, np.int64))
    texts = pa.array([f"a photo of thing {i}" for i in range(captions or 0)], pa.large_string())
    table = {
        "key": pc.utf8_lpad(numbers.cast(pa.large_string()), 9, "0"),
        "position": numbers,
        "offset": place,
        "length": place,
        "label": pa.array(np.arange(count) % classes if classes else np.full(count, -1)),
        "caption": texts.take(pa.array(np.arange(count) % captions)) if captions else pa.nulls(count, pa.large_string()),
    }
    shard = ShardStat(name="all.tar", bytes=0, mtime_ns=0, rows=count, digest="")
    return make_index([pa.table(table)], [shard], split="train", key_rule="sample", classes=classes, null_label=False, where="memory")


def count_targets(edits: pa.Table, classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(edits["new"].cast(pa.int64()).to_numpy(), minlength=classes)


@pytest.fixture(scope="module")
def imagenet() -> Index:
    return large_index(IMAGENET, classes=1000)


@pytest.mark.parametrize("mode", ["uniform", "prior"])
def test_imagenet_at_5_percent_changes_64058_labels_and_reaches_every_class(mode: str, imagenet: Index) -> None:
    plan = make_plan(Recipe(seed=0, chain=[Flip(ratio="0.05", mode=mode)]), imagenet, strict=True)
    counts = plan.counts()
    assert (plan.edits.num_rows, counts.changed, counts.stages[0].selected) == (64_058, 64_058, 64_058)
    assert counts.effective_ratio == "0.049999727"
    assert not pc.any(pc.equal(plan.edits["old"], plan.edits["new"])).as_py()
    assert pc.count_distinct(plan.edits["key"]).as_py() == 64_058
    targets = count_targets(plan.edits, 1000)
    assert len(targets) == 1000
    assert targets.min() > 0
    old = count_targets(plan.edits.select(["old"]).rename_columns(["new"]), 1000)
    assert old.min() > 0, "every class loses rows as well"


def test_cc3m_at_5_percent_changes_145298_captions() -> None:
    index = large_index(CC3M, captions=2_000_003)
    plan = make_plan(Recipe(seed=0, chain=[Swap(ratio="0.05")]), index, strict=True)
    assert (plan.edits.num_rows, plan.counts().changed, plan.composed.num_rows) == (145_298, 145_298, 145_298)
    assert not pc.any(pc.equal(plan.edits["old"], plan.edits["new"])).as_py()
    assert sorted(plan.edits["donor"].to_pylist()) == plan.edits["key"].to_pylist(), "every row that takes a caption gives its own away"


# Statistics: deterministic, since the seeds are fixed


def tail_of(observed: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], free: int) -> float:
    """The probability of a larger chi-square, by Wilson and Hilferty's cube root."""
    chi = float(((observed - expected) ** 2 / expected).sum())
    z = ((chi / free) ** (1 / 3) - (1 - 2 / (9 * free))) / sqrt(2 / (9 * free))
    return erfc(z / sqrt(2)) / 2


def test_tail_is_that_of_the_chi_square_distribution() -> None:
    """Against tables: 124.34 is the 95th percentile for 100 degrees of freedom, 149.45 the 99.9th."""
    for chi, tail in ((99.33, 0.5), (124.34, 0.05), (149.45, 0.001)):
        observed = np.array([10.0 + sqrt(10 * chi)])
        assert tail_of(observed, np.array([10.0]), 100) == pytest.approx(tail, rel=0.02)


@pytest.fixture(scope="module")
def index() -> Index:
    return index_rows(make_rows(20_000, classes=10))


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 2**64, 10**30])
def test_targets_are_uniform_among_the_other_classes(seed: int, index: Index) -> None:
    edits = make_plan(Recipe(seed=seed, chain=[Flip(ratio="1")]), index).edits
    shift = (edits["new"].cast(pa.int64()).to_numpy() - edits["old"].cast(pa.int64()).to_numpy()) % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[0] == 0
    assert 1e-4 < tail_of(counts[1:], np.full(9, 20_000 / 9), 8) < 1 - 1e-4
    pairs = np.zeros((10, 10))
    np.add.at(pairs, (edits["old"].cast(pa.int64()).to_numpy(), edits["new"].cast(pa.int64()).to_numpy()), 1)
    off = ~np.eye(10, dtype=bool)
    assert 1e-4 < tail_of(pairs[off], np.full(90, 20_000 / 90), 80) < 1 - 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_prior_targets_follow_the_classes_sizes(seed: int) -> None:
    rows = [row._replace(label=min(i % 13, 9)) for i, row in enumerate(make_rows(26_000))]
    edits = make_plan(Recipe(seed=seed, chain=[Flip(ratio="1", mode="prior")]), index_rows(rows)).edits
    sizes = np.array([2000] * 9 + [8000])
    expected = sum(size * np.where(np.arange(10) == y, 0, sizes / (26_000 - size)) for y, size in enumerate(sizes))
    assert 1e-4 < tail_of(count_targets(edits, 10), np.asarray(expected), 9) < 1 - 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_rank_and_target_are_independent(seed: int, index: Index) -> None:
    """What is drawn for the first half of the ranking says nothing about what is drawn for the second."""
    edits = make_plan(Recipe(seed=seed, chain=[Flip(ratio="1")]), index).edits
    shift = (edits["new"].cast(pa.int64()).to_numpy() - edits["old"].cast(pa.int64()).to_numpy()) % 10 - 1
    table = np.zeros((10, 9))
    np.add.at(table, (edits["rank"].to_numpy() // 2000, shift), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    assert 1e-4 < tail_of(table, expected, 9 * 8) < 1 - 1e-4


@pytest.mark.parametrize(
    "chain", [[Flip(ratio="0.1")], [Flip(ratio="0"), Flip(ratio="0.1")], [Swap(ratio="0.1")]], ids=["flip", "flip@1", "swap"]
)
def test_chosen_rows_spread_over_keys_and_labels(chain: list[Flip | Swap], index: Index) -> None:
    for seed in range(4):
        chosen = make_plan(Recipe(seed=seed, chain=chain), index).edits["key"].cast(pa.int64()).to_numpy()
        for counts in (np.bincount(chosen // 1000, minlength=20), np.bincount(chosen % 10, minlength=10)):
            assert 1e-4 < tail_of(counts, np.full(len(counts), 2000 / len(counts)), len(counts) - 1) < 1 - 1e-4


def test_seeds_epochs_kinds_and_stages_choose_rows_of_their_own(index: Index) -> None:
    """Two independent choices of a tenth share a hundredth of the rows: 200 of 20,000, give or take 13."""
    recipes = [Recipe(seed=seed, chain=[Flip(ratio="0.1")]) for seed in (0, 1, 10, 100, 2**64)]
    recipes += [recipes[0].in_epoch(epoch) for epoch in (0, 1, 2)]
    recipes += [Recipe(seed=0, chain=[Swap(ratio="0.1")]), Recipe(seed=0, chain=[Flip(ratio="0"), Flip(ratio="0.1")])]
    recipes += [Recipe(seed=0, chain=[Swap(ratio="0"), Swap(ratio="0.1")])]
    chosen = [set(make_plan(recipe, index).edits["key"].to_pylist()) for recipe in recipes]
    assert {len(rows) for rows in chosen} == {2000}
    shared = [len(one & other) for i, one in enumerate(chosen) for other in chosen[:i]]
    assert len(shared) == 55
    assert 200 - 4.5 * 13 < min(shared) <= max(shared) < 200 + 4.5 * 13
