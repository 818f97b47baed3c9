"""The laws of SPEC.md section 7 that a plan alone can show: 3 order, 4 count, 5 nesting; and the sources at the edge of them all."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.corruptions import Flip, Swap
from corruptkit.errors import DatasetError
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import Recipe, parse_recipe
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows, write_shards
from tests.corruptkit.strategies import examples, index_rows, oracle_rows, ratios, recipes, sources

Json = dict[str, Any]
MODES = ("uniform", "prior", "within", "pair", "matrix", "redraw")


def plan_rows(recipe: Json, rows: Sequence[Row], classes: int | None, **how: Any) -> Plan:
    return make_plan(parse_recipe(recipe, "test"), index_rows(rows, classes=classes, **how))


def read_edits(plan: Plan) -> list[oracle.Edit]:
    return [oracle.Edit(**line) for line in plan.edits.drop_columns("shard").to_pylist()]


def flip_stage(mode: str, classes: int, ratio: str = "1") -> Json:
    """A stage of a mode over all classes: one group of them all, equal weights."""
    tables: Json = {"within": {"groups": [list(range(classes))]}, "matrix": {"matrix": [["1"] * classes] * classes}}
    return {"kind": "flip", "mode": mode, "ratio": ratio, **tables.get(mode, {})}


# 3 Order


@examples(150)
@given(st.data())
def test_law_3_order(data: st.DataObject) -> None:
    rows, classes = data.draw(sources(least=1))
    recipe = data.draw(recipes(rows, classes))
    shuffled, shards = data.draw(st.permutations(rows)), data.draw(st.integers(1, 5))
    one, other = plan_rows(recipe, rows, classes), plan_rows(recipe, shuffled, classes, shards=shards)
    assert one.edits.drop_columns("shard").equals(other.edits.drop_columns("shard"))
    assert (one.variant_id, one.identity, one.counts()) == (other.variant_id, other.identity, other.counts())


@examples(15)
@given(data=st.data())
def test_law_3_order_of_rows_in_tars(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows, classes = data.draw(sources(least=1))
    recipe = parse_recipe(data.draw(recipes(rows, classes)), "test")
    place = tmp_path_factory.mktemp("order")
    write_shards(place / "a", rows, shards=1)
    write_shards(place / "b", data.draw(st.permutations(rows)), shards=data.draw(st.integers(2, 4)), name="part{}.tar")
    plans = [make_plan(recipe, open_dataset(place / name, classes=classes).index()) for name in "ab"]
    assert plans[0].edits.drop_columns("shard").equals(plans[1].edits.drop_columns("shard"))
    assert plans[0].identity == plans[1].identity == make_plan(recipe, index_rows(rows, classes=classes)).identity


# 4 Count


def half_up(ratio: str, population: int) -> int:
    """floor(ratio * N + 1/2) in integers alone."""
    part, whole = Fraction(ratio).as_integer_ratio()
    return (2 * part * population + whole) // (2 * whole)


@examples(150)
@given(st.data())
def test_law_4_count(data: st.DataObject) -> None:
    rows, classes = data.draw(sources(least=1))
    recipe = data.draw(recipes(rows, classes))
    plan = plan_rows(recipe, rows, classes)
    per_stage = [[edit for edit in read_edits(plan) if edit.stage == number] for number in range(len(recipe["chain"]))]
    for number, (stage, record, edits) in enumerate(zip(recipe["chain"], plan.counts().stages, per_stage, strict=True)):
        n = min(record.eligible, half_up(stage["ratio"], len(rows) if stage["of"] == "all" else record.eligible))
        assert (record.kind, record.selected, record.edits) == (stage["kind"], n, len(edits))
        assert len({edit.key for edit in edits}) == len(edits), "one edit a row and stage"
        assert all(edit.old != edit.new for edit in edits)
        missing = any(problem.key == f"chain.{number}" and "pairs" in problem.found for problem in plan.shortfalls)
        if stage["kind"] == "swap":
            assert len(edits) % 2 == 0
            assert (len(edits) < 2 * (n // 2)) == missing
        elif stage["mode"] == "redraw":
            assert {edit.rank for edit in edits} <= set(range(n))
        else:
            assert sorted(edit.rank for edit in edits) == list(range(n))


def test_law_4_count_of_redrawn_rows_is_less_by_those_that_drew_their_own_class() -> None:
    rows = make_rows(2000, classes=4, captions=None)
    plan = plan_rows({"seed": 5, "chain": [flip_stage("redraw", 4, "0.5")]}, rows, None)
    draws = {row.key: oracle.below(oracle.draw("5", "flip", 0, "target", row.key), 4) for row in rows}
    ranking = sorted(rows, key=lambda row: oracle.draw("5", "flip", 0, "rank", row.key))
    own = sum(draws[row.key] == row.label for row in ranking[:1000])
    assert 200 < own < 300
    assert plan.edits.num_rows == 1000 - own
    assert plan.counts().effective_ratio == f"{(1000 - own) / 2000:.9f}"


@pytest.mark.parametrize(
    ("ratio", "population", "count"),
    [
        ("0.5", 1, 1),
        ("0.4999999999999999999999999", 1, 0),
        ("0.1", 4, 0),
        ("0.1", 5, 1),
        ("0.285", 100, 29),  # 28.499999999999996 in floats
        ("0.575", 100, 58),  # 57.49999999999999
        ("0.145", 1000, 145),
        ("0.05", 1_281_167, 64_058),
        ("0.05", 2_905_954, 145_298),
        ("0.00000000000000000001", 2**31, 0),
        ("1", 2**31, 2**31),
    ],
)
def test_law_4_count_rounds_half_up_exactly(ratio: str, population: int, count: int) -> None:
    assert Flip(ratio=ratio).count_rows(population, population) == count == half_up(ratio, population)


@examples(300)
@given(ratios(), st.integers(0, 2**31), st.integers(0, 2**31), st.sampled_from(["all", "eligible"]))
def test_law_4_count_is_exact_and_capped(ratio: tuple[str, object], total: int, eligible: int, of: str) -> None:
    eligible = min(eligible, total)
    found = Swap(ratio=ratio[0], of=of).count_rows(total, eligible)
    assert found == min(eligible, half_up(ratio[0], total if of == "all" else eligible))


@examples(100)
@given(ratios(), st.sampled_from([0, 2**64, 10**80]))
def test_every_spelling_of_a_ratio_and_seed_is_one_recipe(ratio: tuple[str, object], seed: int) -> None:
    text, other = ratio
    first = Recipe(seed=str(seed), chain=[Flip(ratio=text)])
    assert first == Recipe(seed=seed, chain=[Flip(ratio=other)]) == Recipe(seed=f"00{seed}", chain=[{"kind": "flip", "ratio": other}])
    assert first.identity()["chain"][0]["ratio"] == text


@pytest.mark.parametrize("ratio", ["0.1", 1e-1, Decimal("0.1"), "1e-1", "0.10", ".1", "1E-1", Decimal("1e-1")], ids=repr)
def test_a_tenth_is_one_variant_however_it_is_written(ratio: object) -> None:
    index = index_rows(make_rows(95))
    expected = make_plan(Recipe(seed=0, chain=[Flip(ratio="0.1")]), index)
    found = make_plan(Recipe(seed=0, chain=[Flip(ratio=ratio)]), index)
    assert found.variant_id == expected.variant_id
    assert found.edits.num_rows == 10


# 5 Nesting


@examples(150)
@given(st.data())
def test_law_5_nesting(data: st.DataObject) -> None:
    """In a chain, for its last stage."""
    rows, classes = data.draw(sources(least=1))
    recipe = data.draw(recipes(rows, classes))
    small, large = sorted((data.draw(ratios())[0] for _ in range(2)), key=Fraction)
    edits = []
    for ratio in (small, large):
        chain = [*recipe["chain"][:-1], recipe["chain"][-1] | {"ratio": ratio}]
        edits.append(read_edits(plan_rows({"seed": recipe["seed"], "chain": chain}, rows, classes)))
    assert set(edits[0]) <= set(edits[1]), "the same values, ranks and partners"


@pytest.mark.parametrize("mode", [*MODES, "any"])
def test_law_5_nesting_over_the_papers_ratios(mode: str) -> None:
    rows, edits = make_rows(1000, classes=10, captions=7), set[oracle.Edit]()
    for ratio in ("0", "0.025", "0.05", "0.075", "0.1", "0.15", "0.2", "0.5", "1"):
        stage = {"kind": "swap", "ratio": ratio} if mode == "any" else flip_stage(mode, 10, ratio)
        found = set(read_edits(plan_rows({"seed": 11, "chain": [stage]}, rows, 10)))
        assert edits <= found
        assert len(found) > len(edits) or ratio == "0"
        edits = found


# At the edge: no rows, one row, one class, duplicates


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("mode", [*MODES, "any"])
@pytest.mark.parametrize("classes", [1, 2])
def test_source_of_no_row_or_one_is_valid(count: int, mode: str, classes: int) -> None:
    stage = {"kind": "swap", "ratio": "1"} if mode == "any" else flip_stage(mode, classes)
    rows = make_rows(count, classes=classes)
    plan = plan_rows({"seed": 0, "chain": [stage]}, rows, classes)
    flips = count == 1 and classes == 2 and mode in ("uniform", "pair", "within", "matrix")
    assert mode == "redraw" or plan.edits.num_rows == flips
    assert plan.identity["source"]["rows"] == count
    assert plan.identity["plan_digest"] == oracle.plan_digest(read_edits(plan))


@pytest.mark.parametrize("mode", MODES)
def test_one_class_has_nothing_to_flip_to(mode: str) -> None:
    plan = plan_rows({"seed": 0, "chain": [flip_stage(mode, 1)]}, make_rows(20, classes=1), None)
    assert plan.edits.num_rows == 0
    assert plan.counts().stages[0].eligible == (20 if mode == "redraw" else 0)


def test_two_classes_flip_to_each_other() -> None:
    rows = make_rows(51, classes=2)
    for mode in ("uniform", "prior", "pair", "within", "matrix"):
        edits = read_edits(plan_rows({"seed": 0, "chain": [flip_stage(mode, 2)]}, rows, None))
        assert {edit.key: edit.new for edit in edits} == {row.key: str(1 - (row.label or 0)) for row in rows}


@pytest.mark.parametrize(("classes", "reached"), [(None, 8), (12, 12)])
def test_class_without_rows_is_a_target_of_uniform_but_not_of_prior(classes: int | None, reached: int) -> None:
    rows = [row for row in make_rows(3000, classes=8) if row.label not in (0, 5)]
    targets = {}
    for mode in ("uniform", "prior"):
        edits = read_edits(plan_rows({"seed": 1, "chain": [flip_stage(mode, 12)]}, rows, classes))
        targets[mode] = {int(edit.new) for edit in edits}
    assert targets == {"uniform": set(range(reached)), "prior": {1, 2, 3, 4, 6, 7}}


@pytest.mark.parametrize("caption", ["", "a cat", "  "])
def test_equal_captions_make_no_pairs(caption: str) -> None:
    rows = [row._replace(caption=caption) for row in make_rows(30)]
    plan = plan_rows({"seed": 0, "chain": [{"kind": "swap", "ratio": "1"}]}, rows, 10)
    assert plan.edits.num_rows == 0
    assert "only 0 pairs" in str(plan.shortfalls[0])
    assert plan.counts().stages[0].selected == 30


@examples(60)
@given(st.data())
def test_duplicate_keys_are_refused_and_the_first_five_named(data: st.DataObject) -> None:
    rows, classes = data.draw(sources(least=1, most=12))
    twice = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=9))
    with pytest.raises(DatasetError) as caught:
        index_rows(data.draw(st.permutations([*rows, *twice])), classes=classes, shards=3)
    named = [problem.key for problem in caught.value.problems]
    expected = sorted((row.key for row in twice), key=str.encode)
    assert named == expected[:5]
    assert all(f"duplicate key ({len(twice)} in all)" in problem.found for problem in caught.value.problems)


@pytest.mark.parametrize("mode", MODES)
def test_source_of_no_row_and_unknown_classes_is_valid(mode: str) -> None:
    assert plan_rows({"seed": 0, "chain": [flip_stage(mode, 2)]}, [], None).edits.num_rows == 0


def test_fingerprint_tells_rows_from_their_neighbours() -> None:
    """Lengths stand before texts, so nothing can move between a key and a caption, or between rows."""
    rows = [Row("a", 1, "b"), Row("c", None, "d"), Row("e", 0, None), Row("f", None, None), Row("g", None, "")]
    others = [
        [Row("a", 1, "bc"), *rows[1:]],
        [rows[0]._replace(label=2), *rows[1:]],
        [rows[0]._replace(label=None), *rows[1:]],
        [*rows[:4], Row("g", None, None)],
        [*rows[:3], Row("f", None, ""), rows[4]],
        [Row("ab", 1, ""), *rows[1:]],
        rows[1:],
    ]
    prints = {index_rows(version, classes=3).meta.fingerprint for version in (rows, *others)}
    assert len(prints) == 1 + len(others)
    assert index_rows(rows).meta.fingerprint == oracle.fingerprint(oracle_rows(rows))
