"""Plans: edit for edit those of an independent oracle, with what they say about themselves."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.corruptions import Drop, Flip, Swap
from corruptkit.errors import CatalogError, DatasetError
from corruptkit.formats.overlay import EDITS, write_edits
from corruptkit.plan import Plan, make_plan, make_plans, ratio_text
from corruptkit.recipe import Recipe, parse_recipe
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows
from tests.corruptkit.strategies import captions, examples, index_rows, oracle_rows, ratios, recipe_table, recipes, seeds, sources

Json = dict[str, Any]


def read_edits(edits: pa.Table) -> list[oracle.Edit]:
    return [oracle.Edit(**line) for line in edits.drop_columns("shard").to_pylist()]


def plan_rows(recipe: Json, rows: Sequence[Row], classes: int | None, **how: Any) -> Plan:
    return make_plan(parse_recipe(recipe_table(recipe), "test"), index_rows(rows, classes=classes, **how))


def check_plan(recipe: Json, rows: Sequence[Row], classes: int, *, null_label: bool = False) -> None:
    plan = plan_rows(recipe, rows, classes, null_label=null_label)
    expected = oracle.plan_edits(recipe, oracle_rows(rows), classes)
    assert read_edits(plan.edits) == expected
    assert plan.identity == oracle.identity(recipe, oracle_rows(rows), classes, null_label=null_label)
    assert plan.variant_id == oracle.variant_id(plan.identity)
    composed = [(line["key"], line["field"], line["old"], line["new"]) for line in plan.composed.to_pylist()]
    wanted = [(key, field, old, new) for (key, field), (old, new) in oracle.compose(expected).items()]
    assert composed == sorted(wanted, key=lambda line: (line[0].encode(), oracle.FIELDS.index(line[1])))
    changed = len({key for key, _, _, _ in wanted})
    assert (plan.counts().rows, plan.counts().changed) == (len(rows), changed)


@examples(400)
@given(st.data())
def test_oracle_gives_the_same_edits(data: st.DataObject) -> None:
    rows, classes = data.draw(sources())
    check_plan(data.draw(recipes(rows, classes)), rows, classes)


@examples(100)
@given(st.data())
def test_oracle_gives_the_same_flips_of_many_rows(data: st.DataObject) -> None:
    rows, classes = data.draw(sources(least=40, most=80, gaps=False))
    check_plan(data.draw(recipes(rows, classes, most=1, kinds=["flip"])), rows, classes)


@examples(100)
@given(st.data(), st.sampled_from([1, 2, 3, 50]))
def test_oracle_gives_the_same_swaps_of_few_different_captions(data: st.DataObject, kinds: int) -> None:
    text = st.integers(0, kinds).map(lambda n: f"thing {n}") | st.sampled_from(["Thing 0", " thing  0 ", "thing\u00a00"])
    rows, classes = data.draw(sources(least=30, most=70, gaps=False, text=text))
    check_plan(data.draw(recipes(rows, classes, kinds=["swap"])), rows, classes)


@examples(100)
@given(st.data())
def test_oracle_gives_the_same_edits_beside_null_labels(data: st.DataObject) -> None:
    rows, classes = data.draw(sources(least=1, gaps=False))
    nobody = data.draw(st.sets(st.sampled_from(rows)))
    rows = [row._replace(label=classes) if row in nobody else row for row in rows]
    check_plan(data.draw(recipes(rows, classes)), rows, classes, null_label=True)


def test_oracle_gives_the_same_walk_past_its_first_reach() -> None:
    """Twins fill the top of the ranking, so the walk for a few pairs goes on far beyond the first n rows of it."""
    seed, rows = "0", make_rows(3000, classes=None, captions=None)
    ranking = sorted((oracle.draw(seed, "swap", 0, "rank", row.key), row.key) for row in rows)
    late = {key for _, key in ranking[2500:]}
    rows = [row._replace(caption="another" if row.key in late else "the same") for row in rows]
    recipe = {"seed": seed, "chain": [{"kind": "swap", "mode": "any", "ratio": "0.1", "of": "all", "where": None}]}
    check_plan(recipe, rows, 1)
    assert plan_rows(recipe, rows, None).edits.num_rows == 300


# Ladders


def encode_plan(plan: Plan) -> tuple[Any, ...]:
    """All that a plan says, its file's bytes included."""
    file = BytesIO()
    write_edits(plan.edits, file)
    return plan.recipe, plan.identity, plan.variant_id, plan.stages, plan.shortfalls, plan.counts(), plan.composed, file.getvalue()


@st.composite
def ladders(draw: st.DrawFn, rows: Sequence[Row], classes: int) -> list[Recipe]:
    """Recipes of one source in any order: each at several ratios of its last stage and under several seeds, some twice."""
    found = []
    for table in draw(st.lists(recipes(rows, classes), min_size=1, max_size=3)):
        for ratio, _ in draw(st.lists(ratios(), min_size=1, max_size=4)):
            chain = [*table["chain"][:-1], table["chain"][-1] | {"ratio": ratio}]
            found += [{"seed": seed, "chain": chain} for seed in [*draw(st.lists(seeds, max_size=2)), table["seed"]]]
    return [parse_recipe(recipe_table(table), "test") for table in draw(st.permutations(found))]


@examples(200)
@given(st.data())
def test_plans_of_a_ladder_are_those_of_its_recipes_alone(data: st.DataObject) -> None:
    text = st.sampled_from(["a cat", "A  Cat", "a dog", "é", ""]) | captions
    rows, classes = data.draw(sources(text=text))
    index, asked = index_rows(rows, classes=classes), data.draw(ladders(rows, classes))
    assert list(map(encode_plan, make_plans(asked, index))) == [encode_plan(make_plan(recipe, index)) for recipe in asked]


@pytest.mark.parametrize("last", [Flip(ratio="1"), Flip(ratio="1", mode="redraw"), Swap(ratio="1"), Drop(ratio="1")])
def test_ladder_is_decided_once_a_seed(last: Flip | Swap | Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[str] = []
    decide = type(last).decide
    monkeypatch.setattr(type(last), "decide", lambda self, rows, draws: [decided.append(draws.seed), decide(self, rows, draws)][1])
    steps = [last.model_copy(update={"ratio": ratio}) for ratio in ("0.1", "0.9", "0.5")]
    asked = [Recipe(seed=seed, chain=[step]) for step in steps for seed in (4, 7)]
    found = list(make_plans(asked, index_rows(make_rows(300))))
    assert decided == ["4", "7"]
    assert [plan.stages[0].selected for plan in found] == [30, 30, 270, 270, 150, 150]
    for plan in found:  # and each is what an independent oracle says
        table = {"seed": plan.recipe.seed, "chain": [last.identity() | {"ratio": plan.recipe.chain[0].ratio}]}
        assert read_edits(plan.edits) == oracle.plan_edits(table, oracle_rows(make_rows(300)), 10)


def test_ladder_that_is_strict_ends_at_the_ratio_that_cannot_be_met() -> None:
    index = index_rows(make_rows(100, classes=10), classes=10)
    asked = [Recipe(seed=0, chain=[Flip(ratio=ratio, where={"classes": [1, 2]})]) for ratio in ("0.1", "0.5", "0.2")]
    plans = make_plans(asked, index, strict=True)
    assert next(plans).edits.num_rows == 10
    with pytest.raises(CatalogError, match="only 20 rows are eligible, expected 50"):
        next(plans)
    assert [plan.edits.num_rows for plan in make_plans(asked, index)] == [10, 20, 20]


# What a plan says


def test_edits_stand_in_ascending_key_bytes_and_stage_with_their_shards() -> None:
    rows = [Row(key, 0, f"c{n}") for n, key in enumerate(["b", "a/b", "a b", "B", "é", "z", "a", "\U0001f600", "\uffee"])]
    recipe = Recipe(seed=1, chain=[Swap(ratio="1"), Flip(ratio="1"), Swap(ratio="1")])
    plan = make_plan(recipe, index_rows(rows, classes=2, shards=3))
    assert plan.edits.schema == EDITS
    assert not any(column.null_count for column in plan.edits.columns)
    places = [(line["key"].encode(), line["stage"]) for line in plan.edits.to_pylist()]
    assert places == sorted(places)
    shard_of = {row.key: f"shard-{n // 3:05d}.tar" for n, row in enumerate(rows)}
    assert [line["shard"] for line in plan.edits.to_pylist()] == [shard_of[line["key"]] for line in plan.edits.to_pylist()]
    assert {line["donor"] == "" for line in plan.edits.to_pylist() if line["kind"] == "flip"} == {True}


def test_donor_and_row_exchange_captions() -> None:
    rows = make_rows(500)
    plan = make_plan(Recipe(seed=3, chain=[Swap(ratio="0.3")]), index_rows(rows))
    edits = {line["key"]: line for line in plan.edits.to_pylist()}
    assert len(edits) == 150
    for key, line in edits.items():
        partner = edits[line["donor"]]
        assert (partner["donor"], partner["old"], partner["new"]) == (key, line["new"], line["old"])


def test_counts_tell_eligible_selected_and_edits_of_each_stage() -> None:
    rows = [*make_rows(40, classes=4, captions=None), *(Row(f"x{n}", None, "the same") for n in range(10))]
    chain = [Flip(ratio="0.5", where={"classes": [0, 1]}), Flip(ratio="0.5", mode="redraw"), Swap(ratio="0.2")]
    counts = make_plan(Recipe(seed=0, chain=chain), index_rows(rows)).counts()
    found = [(stage.kind, stage.eligible, stage.selected) for stage in counts.stages]
    assert found == [("flip", 20, 20), ("flip", 40, 25), ("swap", 10, 10)]
    assert (counts.stages[0].edits, counts.stages[2].edits) == (20, 0)
    assert 0 < counts.stages[1].edits < 25
    assert (counts.rows, counts.excluded) == (50, 0)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0.000000000"),
        (0, 7, "0.000000000"),
        (1, 3, "0.333333333"),
        (2, 3, "0.666666667"),
        (7, 7, "1.000000000"),
        (1, 2 * 10**9, "0.000000001"),
    ],
)
def test_effective_ratio_has_nine_places_and_rounds_half_up(part: int, whole: int, text: str) -> None:
    assert ratio_text(part, whole) == text


# What a ratio cannot give


def test_cap_is_reported_with_what_to_do_and_refused_when_strict() -> None:
    index = index_rows(make_rows(100, classes=10), classes=10)
    recipe = Recipe(seed=0, chain=[Flip(ratio="0.5", where={"classes": [1, 2]})])
    plan = make_plan(recipe, index)
    line = "recipe, chain.0: only 20 rows are eligible, expected 50 to change; lower the ratio or use --of eligible"
    assert [str(problem) for problem in plan.shortfalls] == [line]
    assert plan.edits.num_rows == 20
    with pytest.raises(CatalogError, match="only 20 rows are eligible"):
        make_plan(recipe, index, strict=True)


def test_missing_pairs_are_reported_and_refused_when_strict() -> None:
    rows = [Row(f"{n:02d}", None, "A  cat " if n else "a dog") for n in range(20)]
    recipe = Recipe(seed=0, chain=[Swap(ratio="1")])
    plan = make_plan(recipe, index_rows(rows))
    assert str(plan.shortfalls[0]).startswith("recipe, chain.0: only 1 pairs of different captions were found, expected 10")
    assert plan.edits.num_rows == 2
    with pytest.raises(CatalogError, match="only 1 pairs"):
        make_plan(recipe, index_rows(rows), strict=True)


@pytest.mark.parametrize("chain", [[Flip(ratio="0.2", of="eligible", where={"classes": [1]})], [Swap(ratio="0.05")], [Flip(ratio="0")]])
def test_ratio_that_is_met_is_no_shortfall(chain: list[Flip | Swap]) -> None:
    assert make_plan(Recipe(seed=0, chain=chain), index_rows(make_rows(99)), strict=True).shortfalls == ()


def test_stage_that_fails_later_in_a_chain_is_named() -> None:
    recipe = Recipe(seed=0, chain=[Flip(ratio="0.1"), Swap(ratio="1")])
    rows = [Row(f"{n:02d}", n % 2, "the same") for n in range(20)]
    with pytest.raises(CatalogError, match=r"recipe, chain\.1: only 0 pairs"):
        make_plan(recipe, index_rows(rows), strict=True)


@pytest.mark.parametrize(
    ("rows", "chain", "line"),
    [
        (
            make_rows(5, classes=None),
            [Flip(ratio="0.1")],
            "source, chain.0: no row has a label, expected labels to corrupt; name another source",
        ),
        (
            make_rows(5, captions=None),
            [Flip(ratio="0"), Swap(ratio="0.1")],
            "source, chain.1: no row has a caption, expected captions to corrupt",
        ),
    ],
)
def test_field_that_no_row_has_is_a_mistake(rows: list[Row], chain: list[Flip | Swap], line: str) -> None:
    with pytest.raises(DatasetError) as caught:
        make_plan(Recipe(seed=0, chain=chain), index_rows(rows))
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("flip", "line"),
    [
        (Flip(ratio="1", mode="within", groups=[[0, 3]]), "recipe, chain.0: groups name class 3, expected classes below 3"),
        (
            Flip(ratio="1", mode="matrix", matrix=[["0", "1"], ["1", "0"]]),
            "recipe, chain.0: the matrix has 2 rows, expected one for each of 3 classes",
        ),
    ],
)
def test_tables_for_other_classes_are_refused(flip: Flip, line: str) -> None:
    with pytest.raises(CatalogError) as caught:
        make_plan(Recipe(seed=0, chain=[flip]), index_rows(make_rows(9, classes=3)))
    assert str(caught.value) == f"{line}; mend the recipe or name another source"
