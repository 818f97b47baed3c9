"""What `corrupt` gives is what files of the same rows give, whatever the object: the property, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import corruptkit as ck
from corruptkit.recipe import parse_recipe
from tests.corruptkit.shards import Row, image_bytes, make_rows, write_shards
from tests.corruptkit.strategies import examples, recipes, sources

Conditions = list[tuple[str, int | None, str | None]]
FLIP = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.3")])


def rows_table(rows: list[Row]) -> pa.Table:
    columns: dict[str, Any] = {
        "image": pa.array(
            [{"bytes": image_bytes(row), "path": f"{n}.png"} for n, row in enumerate(rows)],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "key": pa.array([row.key for row in rows], pa.string()),
    }
    if any(row.label is not None for row in rows):
        columns["label"] = pa.array([row.label for row in rows], pa.int64())
    if any(row.caption is not None for row in rows):
        columns["caption"] = pa.array([row.caption for row in rows], pa.string())
    return pa.table(columns)


def as_dataset(table: pa.Table) -> datasets.Dataset:
    return datasets.Dataset(table).cast_column("image", datasets.Image(decode=False))


def as_shuffled(table: pa.Table) -> datasets.Dataset:
    """The same rows in the same order, above a table that holds them backwards among others."""
    backwards = pa.concat_tables([table.take(pa.array(range(len(table) - 1, -1, -1))), table])
    return as_dataset(backwards).select([len(table) - 1 - row for row in range(len(table))])


def as_stream(table: pa.Table) -> datasets.IterableDataset:
    return as_dataset(table).to_iterable_dataset(num_shards=min(3, len(table)))


def as_bare_stream(table: pa.Table) -> datasets.IterableDataset:
    return datasets.IterableDataset.from_generator(table.to_pylist)


OBJECTS: dict[str, Callable[[pa.Table], Any]] = {
    "dataset": as_dataset,
    "shuffled": as_shuffled,
    "stream": as_stream,
    "bare stream": as_bare_stream,
    "polars": pl.from_arrow,
    "pyarrow": lambda table: table,
    "items": lambda table: table.to_pylist(),
}


def read_back(data: Any) -> Conditions:
    """Every row's key, label and caption in the order of the object, which must hold the images that it held."""
    if isinstance(data, pl.DataFrame):
        rows = data.to_dicts()
    elif isinstance(data, pa.Table):
        rows = data.to_pylist()
    else:
        rows = list(data) if hasattr(data, "__iter__") else [data[number] for number in range(len(data))]
    assert all(row["image"]["bytes"] == image_bytes(Row(row["key"])) for row in rows)
    return [(row["key"], row.get("label"), row.get("caption")) for row in rows]


@pytest.mark.parametrize("kind", OBJECTS)
@given(data=st.data())
@examples(15)
def test_memory_gives_what_files_give(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Edit for edit and under one variant_id: of every kind, mode, chain and where, with gaps and in any order."""
    rows, classes = data.draw(sources(least=1))
    rows = data.draw(st.permutations(rows))
    recipe = parse_recipe(data.draw(recipes(rows, classes)), "test")
    folder = tmp_path_factory.mktemp("memory")
    (folder / "source").mkdir()
    for number, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
        pq.write_table(rows_table(rows).slice(0 if number == 0 else len(rows) // 2, len(part)), folder / "source" / f"{number}.parquet")
    source = ck.open_dataset(folder / "source", classes=classes)
    plan = ck.make_plan(recipe, source.index())
    ck.write_variant(source, plan, folder / "out")
    written = [(row["key"], row.get("label"), row.get("caption")) for row in ck.open_dataset(folder / "out").rows()]

    given_data = OBJECTS[kind](rows_table(rows))
    mine = ck.plan_corruption(given_data, recipe, classes=classes)
    assert (mine.variant_id, mine.composed) == (plan.variant_id, plan.composed)
    assert read_back(ck.corrupt(given_data, recipe, classes=classes)) == written
    assert read_back(given_data) == [(row.key, row.label, row.caption) for row in rows]


def test_tars_give_the_same_edits(tmp_path: Path) -> None:
    rows = make_rows(60)
    recipe = ck.Recipe(seed=3, chain=[ck.Flip(ratio="0.2", mode="prior"), ck.Swap(ratio="0.3")])
    tars = ck.make_plan(recipe, ck.open_dataset(write_shards(tmp_path / "tars", rows), key="sample").index())
    mine = ck.plan_corruption(rows_table(rows), recipe)
    assert mine.composed == tars.composed
    assert (mine.source["key_rule"], tars.source["key_rule"]) == ("column:key", "sample")


@pytest.mark.parametrize("kind", OBJECTS)
def test_epoch_draws_anew(kind: str) -> None:
    rows = make_rows(60)
    data = OBJECTS[kind](rows_table(rows))
    first, second, again = (read_back(ck.corrupt(data, FLIP, epoch=epoch)) for epoch in (1, 2, 1))
    assert first == again != second
    assert first == read_back(ck.corrupt(data, FLIP.in_epoch(1)))


@pytest.mark.parametrize("kind", OBJECTS)
def test_variant_without_labels_is_a_source(kind: str) -> None:
    """Law 9, of a null label that the object cannot declare by itself."""
    rows = make_rows(60)
    drop, flip = ck.Drop(ratio="0.5", mode="label"), ck.Flip(ratio="0.9")
    data = OBJECTS[kind](rows_table(rows))
    both = read_back(
        ck.corrupt(ck.corrupt(data, ck.Recipe(seed=0, chain=[drop])), ck.Recipe(seed=1, chain=[flip]), classes=10, null_label=True)
    )
    index = ck.plan_corruption(data, ck.Recipe(seed=0, chain=[drop]))
    dropped = set(index.composed["key"].to_pylist())
    assert len(dropped) == 30
    assert all((label == 10) == (key in dropped) for key, label, _ in both)
    assert sum(label != row.label for (_, label, _), row in zip(both, rows, strict=True)) == 60


@pytest.mark.parametrize("kind", ["items", "stream", "polars", "dataset"])
def test_result_can_be_sent_to_a_worker(kind: str) -> None:
    made = ck.corrupt(OBJECTS[kind](rows_table(make_rows(30))), FLIP)
    assert read_back(pickle.loads(pickle.dumps(made))) == read_back(made)  # noqa: S301 - our own


def table_with(**columns: Any) -> pa.Table:
    table = pa.table({"key": [f"k{n}" for n in range(4)], "label": [0, 1, 2, 0], "caption": list("abcd")})
    for name, values in columns.items():
        table = table.drop_columns(name) if values is None else table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


REFUSED = [
    ("duplicate keys", table_with(key=["a", "b", "a", "c"]), {}, "duplicate key"),
    ("a null key", table_with(key=["a", None, "b", "c"]), {}, "no key"),
    ("an empty key", table_with(key=["a", "", "b", "c"]), {}, "an empty key"),
    ("a label below 0", table_with(label=[0, -1, 2, 0]), {}, "the label -1"),
    ("a label above the classes", table_with(), {"classes": 2}, "label 2, expected labels below 2"),
    ("labels of floats", table_with(label=[0.0, 1.0, 2.0, 0.5]), {}, "integer"),
    ("captions of integers", table_with(caption=[1, 2, 3, 4]), {}, "'caption'"),
    ("no labels", table_with(label=None), {}, "no row has a label"),
    ("a missing column", table_with(), {"label_column": "target"}, "'target'"),
    (
        "a row without the named label",
        table_with(label=[0, None, 2, 0]),
        {"label_column": "label"},
        "no label, expected a label in every row",
    ),
    ("an unknown key", table_with(), {"key": "kee"}, "no column 'kee', expected a column of keys or a key rule"),
    ("a split that is none", table_with(), {"split": "../x"}, "the split '../x'"),
    ("a ratio that cannot be met", table_with(label=[0, None, None, None]), {"strict": True, "classes": 2}, "only 1 rows are eligible"),
    ("what is not said to happen to bad rows", table_with(), {"bad": "drop"}, "valid are: exclude, refuse"),
]
CARRIERS = {
    "dataset": datasets.Dataset,
    "stream": lambda table: datasets.Dataset(table).to_iterable_dataset(),
    "polars": pl.from_arrow,
    "pyarrow": lambda t: t,
    "items": pa.Table.to_pylist,
}


@pytest.mark.parametrize("kind", CARRIERS)
@pytest.mark.parametrize(("table", "how", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_bad_rows_are_refused_in_one_line(kind: str, table: pa.Table, how: Any, said: str) -> None:
    recipe = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.9")])
    with pytest.raises(ck.CorruptkitError) as caught:
        ck.corrupt(CARRIERS[kind](table), recipe, **how)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", CARRIERS)
def test_bad_rows_can_be_left_out(kind: str) -> None:
    table = table_with(key=["a", "b", "a", "c"])
    plan = ck.plan_corruption(CARRIERS[kind](table), ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]), bad="exclude")
    assert (plan.counts().rows, plan.counts().excluded, plan.counts().changed) == (2, 2, 2)
    made = ck.corrupt(CARRIERS[kind](table), ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]), bad="exclude")
    rows = made.to_dicts() if isinstance(made, pl.DataFrame) else made.to_pylist() if isinstance(made, pa.Table) else list(made)
    assert [row["label"] == label for row, label in zip(rows, [0, 1, 2, 0], strict=True)] == [True, False, True, False]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"label": [0]}, "of type dict"),
        ("train", "of type str"),
        (7, "of type int"),
        (datasets.DatasetDict(), "pick a split"),
        (datasets.IterableDatasetDict(), "pick a split"),
        (pl.LazyFrame({"label": [0]}), "collect() it"),
        (pl.DataFrame({"label": [0]}).to_pandas(), "pyarrow.Table.from_pandas"),
        ([1, 2], "items of type int"),
    ],
)
def test_other_objects_are_refused(data: Any, said: str) -> None:
    with pytest.raises(ck.DatasetError) as caught:
        ck.corrupt(data, FLIP)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_open_have_their_own_way(tmp_path: Path) -> None:
    with pytest.raises(ck.DatasetError, match="with_recipe"):
        ck.corrupt(ck.open_dataset(write_shards(tmp_path, make_rows(4))), FLIP)


def test_no_library_is_imported_for_objects_of_another() -> None:
    script = (
        "import sys, corruptkit as ck\n"
        "made = ck.corrupt([(None, n % 3) for n in range(9)], ck.Recipe(seed=0, chain=[ck.Flip(ratio='1')]))\n"
        "assert all(made[n][1] != n % 3 for n in range(9))\n"
        "print(sorted({'datasets', 'polars', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_empty_data_sets_have_no_edits() -> None:
    table = table_with().slice(0, 0)
    for data in (table, pl.from_arrow(table), datasets.Dataset(table), []):
        assert ck.plan_corruption(data, FLIP).counts().changed == 0
        ck.corrupt(data, FLIP)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"clases": 3}, "clases: unknown argument 'clases'; did you mean 'classes'?"),
        ({"classes": "3"}, "classes: found '3', expected a non-negative integer; mend the argument"),
        ({"classes": 3.0}, "classes: found 3.0, expected a non-negative integer"),
        ({"classes": -1}, "classes: found -1, expected a non-negative integer"),
        ({"classes": True}, "classes: found True, expected a non-negative integer"),
        ({"key": 3}, "key: found 3, expected a text"),
        ({"split": 3}, "split: found 3, expected a text"),
        ({"label_column": None}, "label_column: found None, expected a text"),
        ({"strict": "no"}, "strict: found 'no', expected True or False"),
        ({"null_label": 1}, "null_label: found 1, expected True or False"),
        ({"bad": "skip"}, "bad: found 'skip'; valid are: exclude, refuse"),
        ({"epoch": -1}, "epoch: found -1, expected a non-negative integer"),
    ],
)
def test_arguments_that_are_wrong_are_refused(how: Any, said: str) -> None:
    for call in (ck.corrupt, ck.plan_corruption):
        with pytest.raises(ck.CatalogError) as caught:
            call(table_with(), FLIP, **how)
        assert str(caught.value).startswith(said)


def test_number_of_classes_may_be_one_of_numpys() -> None:
    one, other = (ck.plan_corruption(table_with(), FLIP, classes=classes) for classes in (7, np.int64(7)))
    assert one.variant_id == other.variant_id


@pytest.mark.parametrize("recipe", [{"seed": 0, "chain": []}, "recipe.toml", None, ck.Flip])
def test_what_is_no_recipe_is_refused(recipe: Any) -> None:
    with pytest.raises(ck.CatalogError, match=r"recipe: an object of type .*, expected a corruptkit.Recipe; build one, or read it"):
        ck.corrupt(table_with(), recipe)


@pytest.mark.parametrize(
    ("change", "how", "said"),
    [
        ({"label": [0, 1, 2, 9]}, {"classes": 3}, "state the right classes or mend the label"),
        ({"key": ["a", "b", None, "d"]}, {}, "leave such rows out with bad='exclude'"),
        ({"key": ["a", "a", "b", "c"]}, {}, "choose another key rule"),
        ({"label": [0.5, 1, 2, 0]}, {}, "or name another label_column"),
        ({}, {"split": "a/b"}, "split: the split 'a/b'"),
        ({}, {"key": "regex:("}, "key: the pattern of"),
        ({}, {"strict": True}, "lower the ratio or use of='eligible'"),
    ],
)
def test_messages_speak_of_arguments(change: Any, how: Any, said: str) -> None:
    recipe = ck.Recipe(seed=0, chain=[ck.Flip(ratio="1", where={"classes": [1]})])
    with pytest.raises(ck.CorruptkitError) as caught:
        ck.corrupt(table_with(**change), recipe, **how)
    assert said in str(caught.value)
    assert "--" not in str(caught.value)


def test_flags_of_a_command_line_stay() -> None:
    table = pa.table({"key": ["a"], "caption": ["x"]})
    with pytest.raises(ck.CatalogError, match="--ratio 1 --seed 0 --levels 5 --table FILE"):
        ck.corrupt(table, ck.Recipe(seed=0, chain=[ck.Rewrite(ratio="1")]))
