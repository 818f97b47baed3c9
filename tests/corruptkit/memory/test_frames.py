"""Frames of polars: types and order stay."""

from __future__ import annotations

import polars as pl
import pytest

import corruptkit as ck

CLASSES = pl.Enum(["cat", "dog"])


def test_types_order_and_other_columns_stay() -> None:
    frame = pl.DataFrame(
        {
            "size": range(20),
            "cls": [n % 4 for n in range(20)],
            "text": [f"t {n}" for n in range(20)],
            "image": [{"bytes": b"x", "path": f"a/{n}.png"} for n in range(20)],
        },
        schema_overrides={"cls": pl.UInt8, "text": pl.Categorical},
    )
    recipe = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.5"), ck.Swap(ratio="0.5")])
    made = ck.corrupt(frame, recipe)
    assert made.schema == frame.schema
    assert made.drop("cls", "text").equals(frame.drop("cls", "text"))
    assert (made["cls"] != frame["cls"]).sum() == 10
    assert (made["text"].cast(str) != frame["text"].cast(str)).sum() == 10
    assert ck.plan_corruption(frame, recipe).edits["key"][0].as_py().startswith("a/")


def test_bytes_alone_are_images() -> None:
    frame = pl.DataFrame({"image": [b"x", None], "label": [0, 1]})
    with pytest.raises(ck.DatasetError, match="row-000000000001: an image without bytes"):
        ck.corrupt(frame, ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]))


def test_rows_that_the_order_alone_names() -> None:
    frame = pl.DataFrame({"text": ["a", "b", "c"]})
    plan = ck.plan_corruption(frame, ck.Recipe(seed=0, chain=[ck.Drop(ratio="1")]))
    assert plan.edits["key"].to_pylist() == [f"row-{n:012d}" for n in range(3)]
    with pytest.raises(ck.DatasetError, match="no row has a caption"):
        ck.corrupt(pl.DataFrame({"size": [1, 2]}), ck.Recipe(seed=0, chain=[ck.Drop(ratio="1")]))


def test_classes_by_name_are_no_labels() -> None:
    """As in files: a label is an integer."""
    with pytest.raises(ck.DatasetError, match=r"the column 'label' is of type dictionary.*, expected integers; cast the column"):
        ck.corrupt(pl.DataFrame({"label": ["cat", "dog"]}, schema={"label": CLASSES}), ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]))


def test_caption_that_its_type_does_not_hold_is_refused() -> None:
    frame = pl.DataFrame({"caption": ["cat", "dog"]}, schema={"caption": CLASSES})
    swapped = ck.corrupt(frame, ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")]))
    assert (swapped.schema, swapped["caption"].to_list()) == (frame.schema, ["dog", "cat"])
    with pytest.raises(ck.DatasetError, match="cannot hold every caption; cast it to text"):
        ck.corrupt(frame, ck.Recipe(seed=0, chain=[ck.Constant(ratio="1", text="emu")]))


def test_column_that_arrow_has_no_type_for_is_left_alone_or_refused() -> None:
    """What cannot be read must not be taken for something that is not there: without its keys, rows would be named by their order."""
    wide = pl.Series([2**100, 1, 2], dtype=pl.Int128)
    frame = pl.DataFrame({"label": [0, 1, 2], "size": wide})
    made = ck.corrupt(frame, ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]))
    assert made["size"].equals(frame["size"])
    assert all(a != b for a, b in zip(made["label"], frame["label"], strict=True))
    for name, how in (("key", {}), ("label", {}), ("size", {"key": "size"}), ("size", {"key": "column:size"})):
        with pytest.raises(
            ck.DatasetError, match=f"the column '{name}' is of type Int128, expected a type that Arrow has; cast the column"
        ):
            ck.corrupt(frame.with_columns(wide.alias(name)), ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]), **how)
