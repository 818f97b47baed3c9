"""Differences between two data sets: what identifies them, and every row's condition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corruptkit.cli import main
from corruptkit.diff import Difference, diff
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import parse_recipe
from corruptkit.restore import restore
from corruptkit.write import write_variant
from tests.corruptkit.damage import Json, chain_recipe, published_source
from tests.corruptkit.shards import Row, make_rows, write_shards

SWAP: Json = {"kind": "swap", "ratio": "0.5"}
FLIP: Json = {"kind": "flip", "ratio": "0.5"}
NOTHING = Difference((), (), (), ())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source", make_rows(30), shards=3)


def make(source: Path, out: Path, *chain: Json, seed: str = "0") -> Plan:
    dataset = open_dataset(source)
    plan = make_plan(parse_recipe({"seed": seed, "chain": list(chain)}, "test"), dataset.index())
    write_variant(dataset, plan, out, "overlay" if out.name.endswith("overlay") else "webdataset")
    return plan


@pytest.mark.parametrize("name", ["variant", "variant.overlay"])
def test_law_8_difference_is_exactly_the_composed_edits(name: str, tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    dataset = open_dataset(source)
    plan = make_plan(chain_recipe(tmp_path), dataset.index())
    write_variant(dataset, plan, tmp_path / name, "overlay" if name.endswith("overlay") else "webdataset")
    edits = [(row["key"], row["field"], row["old"], row["new"]) for row in plan.composed.to_pylist()]
    found = diff(source, tmp_path / name)
    assert found.changed == tuple(sorted(edits))
    assert found.only_first == found.only_second == ()
    back = diff(tmp_path / name, source)
    assert back.changed == tuple(sorted((key, field, new, old) for key, field, old, new in edits))
    assert {field for _, field, *_ in edits} == {"label", "caption"}


def test_same_data_do_not_differ(source: Path, tmp_path: Path) -> None:
    """Itself, in other shards, as a variant without edits, restored; opened or by path."""
    make(source, tmp_path / "variant", SWAP)
    assert diff(source, source) == NOTHING
    assert diff(open_dataset(source), str(source)) == NOTHING
    assert diff(source, write_shards(tmp_path / "other", make_rows(30), shards=2, members=("txt", "cls"))) == NOTHING
    assert diff(source, restore(tmp_path / "variant", tmp_path / "restored")) == NOTHING


def test_overlay_and_copy_do_not_differ(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "copied", SWAP, FLIP)
    make(source, tmp_path / "overlay", SWAP, FLIP)
    assert diff(tmp_path / "copied", tmp_path / "overlay") == NOTHING


def test_identities_are_compared_field_by_field(source: Path, tmp_path: Path) -> None:
    for number, seed in enumerate(("0", "1")):
        make(source, tmp_path / f"v{number}", SWAP, seed=seed)
    found = diff(tmp_path / "v0", tmp_path / "v1")
    assert [row for row in found.identity if row[0] == "recipe.seed"] == [("recipe.seed", "0", "1")]
    assert {row[0] for row in found.identity} == {"plan_digest", "recipe.seed"}
    assert found.changed != ()
    make(source, tmp_path / "none", SWAP | {"ratio": "0"})
    against = {row[0] for row in diff(source, tmp_path / "none").identity}
    assert against == {"spec", "recipe", "edits", "plan_digest"}
    assert diff(source, tmp_path / "none").changed == ()


def test_rows_of_one_side_are_named(source: Path, tmp_path: Path) -> None:
    rows = make_rows(30)
    fewer = write_shards(tmp_path / "fewer", [*rows[:9], *rows[12:], Row("zz", 1, "new")], shards=1)
    found = diff(source, fewer)
    assert found.only_first == ("000000009", "000000010", "000000011")
    assert found.only_second == ("zz",)
    assert found.changed == ()
    assert diff(fewer, source).only_second == found.only_first
    assert {row[0] for row in found.identity} == {"source.fingerprint", "source.rows"}


def test_what_a_row_lacks_is_no_value(tmp_path: Path) -> None:
    """A missing label, a missing caption and an empty one are three things."""
    first = [Row("a", 1, "x"), Row("b", None, "x"), Row("c", 0, None), Row("d", 2, ""), Row("e", None, None)]
    second = [Row("a", None, "x"), Row("b", 0, "x"), Row("c", 0, ""), Row("d", 2, None), Row("e", None, None)]
    places = [write_shards(tmp_path / name, rows, shards=1) for name, rows in (("first", first), ("second", second))]
    assert diff(*places).changed == (
        ("a", "label", "1", None),
        ("b", "label", None, "0"),
        ("c", "caption", None, ""),
        ("d", "caption", "", None),
    )
    assert diff(places[0], places[0]) == NOTHING


def test_captions_are_compared_to_the_byte(tmp_path: Path) -> None:
    texts = [("é", "e\u0301"), ("a", "A"), ("a", "a "), ("a", "\ufeffa"), ("a\n", "a\r\n")]
    first, second = (
        write_shards(tmp_path / str(side), [Row(f"{i}", None, pair[side]) for i, pair in enumerate(texts)], shards=1) for side in (0, 1)
    )
    assert [row[2:] for row in diff(first, second).changed] == texts


# The command


def test_command_says_no_with_status_1(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make(source, tmp_path / "variant", FLIP)
    assert main(["diff", str(source), str(tmp_path / "variant")]) == 1
    lines = capsys.readouterr().out.splitlines()
    edits = plan.composed.to_pylist()
    told = [f"{edit['key']}: label '{edit['old']}' | '{edit['new']}'" for edit in edits]
    assert [line for line in lines if ": label " in line] == told
    assert lines[-1] == "15 conditions differ"


def test_command_says_yes_with_status_0(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other recipes with one outcome differ in identity, not in conditions."""
    make(source, tmp_path / "variant", FLIP | {"ratio": "0"})
    assert main(["diff", str(source), str(source)]) == 0
    assert capsys.readouterr().out == "no condition differs\n"
    assert main(["diff", str(source), str(tmp_path / "variant")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no condition differs"
    assert lines[0] == "the identities differ in: edits, plan_digest, recipe, spec"


@pytest.mark.parametrize("limit", [0, 1, 4, 100])
def test_command_prints_as_much_as_is_asked_for(limit: int, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(source, tmp_path / "variant", FLIP)
    main(["diff", str(source), str(tmp_path / "variant"), "--limit", "999"])
    head, *everything, _ = capsys.readouterr().out.splitlines()
    assert main(["diff", str(source), str(tmp_path / "variant"), "--limit", str(limit)]) == 1
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == head, "what differs in the identities is not counted"
    assert lines[:limit] == everything[:limit] if limit < len(everything) else lines[:-1] == everything
    if limit < len(everything):
        assert lines[limit:] == [f"... {len(everything) - limit:,} more (--limit)", "15 conditions differ"]


def test_command_in_json_holds_every_difference(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make(source, tmp_path / "variant", SWAP)
    assert main(["diff", str(source), str(tmp_path / "variant"), "--json", "--limit", "1"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["command"], found["problems"], found["only_first"], found["only_second"]) == ("diff", [], [], [])
    edits = plan.composed.to_pylist()
    assert found["changed"] == [{"key": e["key"], "field": "caption", "first": e["old"], "second": e["new"]} for e in edits]
    assert {row[0] for row in found["identity"]} >= {"spec", "recipe"}


def test_command_lets_no_key_or_caption_reach_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a\u202eb", 0, "x\x1b[31m\u202ey"), Row("c\u2066", 0, "z")]
    first, second = (
        write_shards(tmp_path / "first", rows, shards=1),
        write_shards(tmp_path / "second", [rows[0]._replace(caption="w")], shards=1),
    )
    assert main(["diff", str(first), str(second)]) == 1
    out = capsys.readouterr().out
    assert not {"\x1b", "\u202e", "\u2066"} & set(out)
    assert "a\\u202eb: caption " in out
    assert f"c\\u2066: only in {first}" in out


def test_command_names_a_path_that_is_no_data_set(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(source), str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nowhere'}: no such file or folder")
