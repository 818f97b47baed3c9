"""Rewrites: who can change, which level a row draws, and what a table that lacks texts leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import corruptkit as ck
from corruptkit.cli import main
from corruptkit.corruptions import fields
from corruptkit.corruptions.texts import read_texts
from corruptkit.index import Index
from corruptkit.recipe import parse_recipe
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows, write_shards
from tests.corruptkit.strategies import examples, index_rows, oracle_rows, sources

Cells = list[list[Any]]
ROWS = make_rows(40, classes=4, captions=7)


def make_recipe(table: Cells, ratio: str = "1", *, seed: int = 0, levels: int = 5, **how: Any) -> ck.Recipe:
    return ck.Recipe(seed=seed, chain=[ck.Rewrite(ratio=ratio, levels=levels, table=table, **how)])


def fill_table(recipe: ck.Recipe, index: Index, write: Any = "{level} {caption}".format) -> Cells:
    """What somebody does who writes one text after another until none is wanted; the recipe has one stage."""
    (stage,), table = recipe.chain, Cells()
    for _ in range(len(index) + 1):
        wanted = ck.list_rewrites(recipe, index).to_pylist()
        if not wanted:
            return table
        table += [[row["key"], row["level"], write(**row)] for row in wanted]
        how = {name: getattr(stage, name) for name in ("ratio", "of", "where", "levels")}
        recipe = ck.Recipe(seed=recipe.seed, chain=[ck.Rewrite(**how, table=table)])
    raise AssertionError("it never ends")


def drawn_level(key: str, levels: int = 5, seed: str = "0") -> int:
    return 1 + oracle.below(oracle.draw(seed, "rewrite", 0, "level", key), levels)


def test_every_row_gets_the_text_of_its_level() -> None:
    table = [[row.key, level, f"{row.key} {level}"] for row in ROWS for level in range(1, 6)]
    plan = ck.make_plan(make_recipe(table), index_rows(ROWS))
    assert dict(zip(*(plan.edits[name].to_pylist() for name in ("key", "new")), strict=True)) == {
        row.key: f"{row.key} {drawn_level(row.key)}" for row in ROWS
    }
    assert {drawn_level(row.key) for row in ROWS} == {1, 2, 3, 4, 5}


def test_one_level_is_drawn_by_all() -> None:
    assert ck.list_rewrites(make_recipe([], levels=1), index_rows(ROWS))["level"].to_pylist() == [1] * 40


def test_row_whose_text_is_its_caption_makes_room_for_the_next() -> None:
    index = index_rows(ROWS)
    ranking = ck.list_rewrites(make_recipe([]), index)["key"].to_pylist()
    said = {row.key: row.caption for row in ROWS}
    table = [[key, level, said[key] if key == ranking[1] else "x"] for key in ranking for level in range(1, 6)]
    plan = ck.make_plan(make_recipe(table, "0.05"), index)
    assert sorted(plan.edits["key"].to_pylist()) == sorted([ranking[0], ranking[2]])
    assert plan.counts().stages[0].eligible == 39


def test_captions_and_texts_are_compared_exactly() -> None:
    rows = [Row("a", None, "a cat"), Row("b", None, ""), Row("c", None, "a cat"), Row("d", None, None)]
    table = [[key, level, text] for level in range(1, 6) for key, text in (("a", "A cat"), ("b", ""), ("c", "a cat "), ("d", "x"))]
    plan = ck.make_plan(make_recipe(table), index_rows(rows))
    assert plan.edits["key"].to_pylist() == ["a", "c"]
    assert plan.counts().stages[0].eligible == 2


def test_table_that_lacks_a_text_is_refused_and_says_how_many() -> None:
    index = index_rows(ROWS)
    wanted = ck.list_rewrites(make_recipe([], "0.25", seed=9), index).to_pylist()
    table = [[row["key"], row["level"], "x"] for row in wanted[:3] + wanted[4:9]]
    with pytest.raises(ck.CatalogError) as caught:
        ck.make_plan(make_recipe(table, "0.25", seed=9), index)
    (problem,) = caught.value.problems
    assert (problem.key, problem.found) == (
        "chain.0",
        f"2 of 10 chosen rows have no text in the table, first '{wanted[3]['key']}' at level {wanted[3]['level']}",
    )
    assert problem.do.endswith("rewrite_captions.py SOURCE --ratio 0.25 --seed 9 --levels 5 --table FILE")


@pytest.mark.parametrize("how", [{"of": "eligible"}, {"where": {"min_words": 1}}])
def test_what_flags_cannot_say_is_left_to_a_recipe_file(how: dict[str, Any]) -> None:
    with pytest.raises(ck.CatalogError, match=r"rewrite_captions.py SOURCE --recipe FILE --table FILE"):
        ck.make_plan(make_recipe([], **how), index_rows(ROWS))


def test_wanted_rows_stand_in_the_order_of_their_ranking() -> None:
    """Whoever stops early has made a smaller ratio."""
    index = index_rows(ROWS)
    wanted = ck.list_rewrites(make_recipe([], "0.5"), index).to_pylist()
    assert [row["key"] for row in wanted] == sorted(
        (row.key for row in ROWS), key=lambda key: (oracle.draw("0", "rewrite", 0, "rank", key), key.encode())
    )[:20]
    assert all(row["level"] == drawn_level(row["key"]) for row in wanted)
    assert {row["key"]: row["caption"] for row in wanted}.items() <= {row.key: row.caption for row in ROWS}.items()


@examples(60)
@given(st.data())
def test_table_made_for_a_ratio_serves_every_smaller_one(data: st.DataObject) -> None:
    """And it holds nothing that the ratio does not need; some writers give captions back as they are."""
    rows, classes = data.draw(sources(least=1))
    rows = [row._replace(caption=row.caption or "a cat") for row in rows]
    index = index_rows(rows, classes=classes)
    own = data.draw(st.sets(st.sampled_from(rows))) if rows else set()
    same = {row.key for row in own}
    levels, of = data.draw(st.integers(1, 6)), data.draw(st.sampled_from(["all", "eligible"]))
    ratios = sorted(data.draw(st.lists(st.integers(0, 100), min_size=2, max_size=4)))

    def write(key: str, level: int, caption: str) -> str:
        return caption if key in same else f"{caption}{level}"

    table = fill_table(make_recipe([], str(ratios[-1] / 100), levels=levels, of=of), index, write)
    assert len({(key, level) for key, level, _ in table}) == len(table), "nothing is asked for twice"
    edits = set[oracle.Edit]()
    for ratio in ratios:
        recipe = make_recipe(table, str(ratio / 100), levels=levels, of=of)
        assert not len(ck.list_rewrites(recipe, index))
        stage = {
            "kind": "rewrite",
            "mode": "table",
            "ratio": recipe.chain[0].ratio,
            "of": of,
            "where": None,
            "levels": levels,
            "table": table,
        }
        found = {oracle.Edit(**line) for line in ck.make_plan(recipe, index).edits.drop_columns("shard").to_pylist()}
        assert found == set(oracle.plan_edits({"seed": "0", "chain": [stage]}, oracle_rows(rows), classes))
        if of == "all":
            assert edits <= found
        edits = found


def test_stages_see_captions_as_those_before_left_them() -> None:
    index = index_rows(ROWS)
    swap = ck.Swap(ratio="1")
    swapped = dict(zip(*(ck.make_plan(ck.Recipe(seed=0, chain=[swap]), index).edits[n].to_pylist() for n in ("key", "new")), strict=True))
    wanted = ck.list_rewrites(ck.Recipe(seed=0, chain=[swap, ck.Rewrite(ratio="1")]), index).to_pylist()
    assert {row["key"]: row["caption"] for row in wanted} == {row.key: row.caption for row in ROWS} | swapped
    assert [row["level"] for row in wanted] == [1 + oracle.below(oracle.draw("0", "rewrite", 1, "level", row["key"]), 5) for row in wanted]


def test_first_stage_that_lacks_texts_is_listed() -> None:
    index = index_rows(ROWS)
    first = make_recipe(fill_table(make_recipe([], "0.1"), index), "0.1").chain[0]
    later = ck.list_rewrites(ck.Recipe(seed=0, chain=[first, ck.Rewrite(ratio="0.2"), ck.Rewrite(ratio="1")]), index)
    assert len(later) == 8
    assert len(ck.list_rewrites(ck.Recipe(seed=0, chain=[ck.Rewrite(ratio="0.1"), first]), index)) == 4


@pytest.mark.parametrize("chain", [[ck.Swap(ratio="1")], [ck.Flip(ratio="0.5"), ck.Drop(ratio="1")], [ck.Rewrite(ratio="0")]])
def test_nothing_is_wanted_where_nothing_is_rewritten(chain: list[Any]) -> None:
    wanted = ck.list_rewrites(ck.Recipe(seed=0, chain=chain), index_rows(ROWS))
    assert wanted.schema == pa.schema([("key", pa.large_string()), ("level", pa.int64()), ("caption", pa.large_string())])
    assert wanted.num_rows == 0


def test_source_without_captions_or_rows() -> None:
    bare = index_rows([row._replace(caption=None) for row in ROWS])
    for call in (ck.list_rewrites, ck.make_plan):
        with pytest.raises(ck.DatasetError, match="no row has a caption"):
            call(make_recipe([]), bare)
    assert ck.list_rewrites(make_recipe([]), index_rows([])).num_rows == 0
    assert ck.make_plan(make_recipe([]), index_rows([])).edits.num_rows == 0


@pytest.mark.parametrize("levels", [0, -1, 1 << 32, "5", 5.0, True, None])
def test_levels_are_a_whole_number_from_1(levels: Any) -> None:
    with pytest.raises(ValidationError):
        ck.Rewrite(ratio="1", levels=levels)


def test_one_table_is_one_variant_however_it_comes(tmp_path: Path) -> None:
    index = index_rows(ROWS)
    table = fill_table(make_recipe([], "0.5"), index)
    columns = dict(zip(("key", "level", "text"), map(list, zip(*table, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "texts.parquet")
    forms = [table, table[::-1], tuple(map(tuple, table)), pa.table(columns), tmp_path / "texts.parquet", str(tmp_path / "texts.parquet")]
    made = [make_recipe(form, "0.5") for form in forms]
    assert len({ck.make_plan(recipe, index).variant_id for recipe in made}) == 1
    assert all(recipe == made[0] for recipe in made)
    assert make_recipe([*table, ["nobody", 1, "x"]], "0.5") != made[0]


@pytest.mark.parametrize("form", ["webdataset", "overlay"])
def test_variant_carries_its_table_and_is_planned_again_from_it(tmp_path: Path, form: Any) -> None:
    write_shards(tmp_path / "src", ROWS, shards=2)
    dataset = ck.open_dataset(tmp_path / "src")
    table = fill_table(make_recipe([], "0.5"), dataset.index(), '"{level}"\n\t{caption}\u2028\\'.format)
    plan = ck.make_plan(make_recipe(table, "0.25"), dataset.index())
    ck.write_variant(dataset, plan, tmp_path / "v", form)
    assert not ck.verify(tmp_path / "v").problems
    assert not ck.verify(tmp_path / "v", source=tmp_path / "src").problems
    (held,) = (tmp_path / "v" / ".corruptkit" / "inputs").iterdir()
    assert held.read_bytes() == oracle.canonical_json(sorted(table))
    held.write_bytes(held.read_bytes().replace(b'\\"1\\"', b'\\"7\\"'))
    assert ck.verify(tmp_path / "v").problems


def test_paths_of_a_recipe_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "src", ROWS)
    table = fill_table(make_recipe([], "0.1"), ck.open_dataset(tmp_path / "src").index())
    (tmp_path / "recipes").mkdir()
    columns = dict(zip(("key", "level", "text"), zip(*table, strict=True), strict=True))
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), tmp_path / "recipes" / "texts.parquet")
    (tmp_path / "recipes" / "r.toml").write_text(
        'seed = 0\n[[chain]]\nkind = "rewrite"\nratio = 0.1\nlevels = 5\ntable = "texts.parquet"\n'
    )
    monkeypatch.chdir(tmp_path)
    assert main(["make", "--source", "src", "--recipe", "recipes/r.toml", "--out", "v", "--workers", "1"]) == 0
    assert main(["make", "--source", "src", "--rewrite", "0.1", "--table", "recipes/texts.parquet", "--workers", "1"]) == 0
    assert ck.read_manifest(tmp_path / "v").variant_id == ck.read_manifest(tmp_path / "src-rewrite-0.1-s0").variant_id


def test_table_is_read_once_for_all_ratios_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "src", ROWS)
    columns = dict(zip(("key", "level", "text"), zip(*[(row.key, n, "x") for row in ROWS for n in range(1, 6)], strict=True), strict=True))
    pq.write_table(pa.table({name: list(column) for name, column in columns.items()}), tmp_path / "texts.parquet")
    read = list[Path]()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fields, "read_texts", lambda path: (read.append(path), read_texts(path))[1])
    words = ["--rewrite", "0.1,0.2,0.5", "--seed", "0,1", "--table", "texts.parquet", "--out", "plans", "--workers", "1"]
    assert main(["plan", "--source", "src", *words]) == 0
    assert len(list((tmp_path / "plans").iterdir())) == 6
    assert read == [Path("texts.parquet")]


def test_default_is_five_levels_and_no_table() -> None:
    recipe = parse_recipe({"seed": 0, "chain": [{"kind": "rewrite", "ratio": "1"}]}, "test")
    (entry,) = recipe.identity()["chain"]
    assert (entry["mode"], entry["levels"], entry["table"]) == ("table", 5, oracle.sha256(b"[]"))
