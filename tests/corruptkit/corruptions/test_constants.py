"""Drops and constants: who can change, what they become, and what is refused as a text, a template or names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

import corruptkit as ck
from corruptkit.cli import main
from corruptkit.corruptions.rows import Decision
from corruptkit.draws import Draws
from corruptkit.errors import CatalogError, DatasetError
from tests.corruptkit.shards import Row, make_rows, write_shards
from tests.corruptkit.strategies import index_rows

ROWS = [Row("a", 0, "a cat"), Row("b", 1, ""), Row("c", 2, None), Row("d", None, "a photo of a cat"), Row("e", 1, "a photo of a dog")]
NAMES = ("cat", "dog", "none")
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c636064620600000e0007d76fe4780000000049454e44ae426082"
)


def decide(corruption: ck.Drop | ck.Constant, rows: list[Row] = ROWS, *, classes: int = 3, null_label: bool = False) -> Decision:
    return corruption.decide(index_rows(rows, classes=classes, null_label=null_label).rows(), Draws("0", corruption.kind))


def new_values(decision: Decision, rows: list[Row] = ROWS) -> dict[str, object]:
    keys = sorted(row.key for row in rows)
    return dict(zip([keys[row] for row in decision.rows.tolist()], list(decision.new.tolist()), strict=True))


def test_drop_empties_captions_that_are_not_empty() -> None:
    decision = decide(ck.Drop(ratio=1))
    assert (decision.field, decision.eligible, decision.selected) == ("caption", 3, 3)
    assert new_values(decision) == {"a": "", "d": "", "e": ""}


def test_drop_gives_classes_the_null_label() -> None:
    rows = [*ROWS, Row("f", 3, None)]  # it has the null label
    decision = decide(ck.Drop(ratio=1, mode="label"), rows, null_label=True)
    assert (decision.field, decision.eligible) == ("label", 4)
    assert new_values(decision, rows) == {"a": 3, "b": 3, "c": 3, "e": 3}


def test_constant_gives_its_text_to_rows_with_another() -> None:
    assert new_values(decide(ck.Constant(ratio=1, text="a cat"))) == {"b": "a cat", "d": "a cat", "e": "a cat"}


def test_template_names_the_class_of_rows_that_have_one() -> None:
    decision = decide(ck.Constant(ratio=1, mode="template", text="a photo of a {}", names=NAMES))
    assert new_values(decision) == {"a": "a photo of a cat", "b": "a photo of a dog"}, "e has it, c has no caption, d no class"
    assert decide(ck.Constant(ratio=1, mode="template", text="{}", names=("{}", "x", "y")), ROWS[:1]).new.to_pylist() == ["{}"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Field required"),
        ({"text": ""}, "at least 1 character"),
        ({"text": 5}, "valid string"),
        ({"text": "\ud800"}, "no lone surrogate"),
        ({"text": "x", "names": NAMES}, "takes no names"),
        ({"text": "a {}", "mode": "template"}, "needs names"),
        ({"text": "a cat", "mode": "template", "names": NAMES}, "one {} for the name"),
        ({"text": "{} and {}", "mode": "template", "names": NAMES}, "one {} for the name"),
        ({"text": "{}", "mode": "template", "names": ["cat", ""]}, "a list of texts"),
        ({"text": "{}", "mode": "template", "names": ["cat", 1]}, "a list of texts"),
        ({"text": "{}", "mode": "template", "names": {"cat": 0}}, "a list of texts"),
    ],
)
def test_what_cannot_be_given_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ck.Constant(ratio=1, **fields)


def test_names_are_as_many_as_classes() -> None:
    recipe = ck.Recipe(seed=0, chain=[ck.Constant(ratio=1, mode="template", text="{}", names=NAMES[:2])])
    with pytest.raises(CatalogError, match="found 2 names, expected one for each of 3 classes"):
        ck.make_plan(recipe, index_rows(ROWS, classes=3))


@pytest.mark.parametrize("form", ["webdataset", "parquet", "arrow", "overlay"])
@pytest.mark.parametrize("ratio", ["0", "0.5"])
def test_variant_without_some_labels_declares_the_null_label(form: str, ratio: str, tmp_path: Path) -> None:
    source = ck.open_dataset(write_shards(tmp_path / "source", make_rows(20, classes=4)), classes=4)
    recipe = ck.Recipe(seed=0, chain=[ck.Drop(ratio=ratio, mode="label")])
    ck.write_variant(source, ck.make_plan(recipe, source.index()), tmp_path / "out", form)
    variant, fresh = ck.open_dataset(tmp_path / "out"), source.with_recipe(recipe)
    for dataset in (variant, fresh):
        assert dataset.index().identity()["null_label"] is True
        assert dataset.index().identity()["classes"] == 4
    assert sum(row["label"] == 4 for row in variant.rows()) == round(20 * float(ratio))
    assert ck.verify(tmp_path / "out", source=tmp_path / "source", deep=form != "overlay").problems == ()
    more = ck.Recipe(seed=1, chain=[ck.Flip(ratio=1)])
    assert ck.make_plan(more, variant.index()).identity == ck.make_plan(more, fresh.index()).identity
    assert ck.make_plan(more, variant.index()).stages[0].eligible == 20 - round(20 * float(ratio))


def test_template_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "source", make_rows(20, classes=2))
    (tmp_path / "names.json").write_text(json.dumps(["cat", "dog"]))
    words = ["--source", str(tmp_path / "source"), "--constant", "1", "--mode", "template", "--text", "a {}"]
    assert main(["make", *words, "--names", str(tmp_path / "names.json"), "--out", str(tmp_path / "out")]) == 0
    assert {row["caption"] for row in ck.open_dataset(tmp_path / "out").rows()} == {"a cat", "a dog"}
    assert main(["verify", str(tmp_path / "out"), "--source", str(tmp_path / "source")]) == 0
    assert main(["make", *words, "--out", str(tmp_path / "none")]) == 2
    assert "needs names; state names" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_datasets_reads_a_null_label_beside_named_classes(form: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for number in range(8):
        path = tmp_path / "folder" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    source, recipe = ck.open_dataset(tmp_path / "folder"), ck.Recipe(seed=0, chain=[ck.Drop(ratio="0.5", mode="label")])
    ck.write_variant(source, ck.make_plan(recipe, source.index()), tmp_path / "out", form)
    assert ck.verify(tmp_path / "out", source=tmp_path / "folder", deep=True).problems == ()
    if form == "parquet":
        files = str(tmp_path / "out" / "data" / "*.parquet")
        found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    else:
        found = datasets.load_from_disk(str(tmp_path / "out"))
    labels = [row["label"] for row in found]
    assert labels.count(2) == 4
    assert labels == [row["label"] for row in ck.open_dataset(tmp_path / "out").to_datasets()]
    assert sorted(labels) == sorted(row["label"] for row in source.with_recipe(recipe).to_datasets())
    again = ck.open_dataset(tmp_path / "out")
    ck.write_variant(again, ck.make_plan(ck.Recipe(seed=1, chain=[ck.Flip(ratio=1)]), again.index()), tmp_path / "again", form)
    assert [row["label"] for row in ck.open_dataset(tmp_path / "again").rows()].count(2) == 4


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_table_of_named_classes_takes_no_null_label(form: str, tmp_path: Path) -> None:
    """Its own description stays as it is, and `datasets` would not read what it does not describe."""
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "folder" / "cat" / "0.png").write_bytes(PNG)
    folder = ck.open_dataset(tmp_path / "folder")
    ck.write_variant(folder, ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio=0)]), folder.index()), tmp_path / "named", form)
    source, recipe = ck.open_dataset(tmp_path / "named"), ck.Recipe(seed=0, chain=[ck.Drop(ratio=1, mode="label")])
    plan = ck.make_plan(recipe, source.index())
    with pytest.raises(DatasetError, match="classes with names, and none for the null label"):
        ck.write_variant(source, plan, tmp_path / "out", form)
    ck.write_variant(source, plan, tmp_path / "overlay", "overlay")
    assert [row["label"] for row in ck.open_dataset(tmp_path / "overlay").rows()] == [1]
