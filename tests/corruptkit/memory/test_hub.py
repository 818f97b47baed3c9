"""Data sets of `datasets`: features, order, formats and images stay; streams are edited as they flow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

import corruptkit as ck

FLIP = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.4")])
SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.5")])
DROP = ck.Recipe(seed=0, chain=[ck.Drop(ratio="0.2", mode="label"), ck.Flip(ratio="0.5")])
NAMES = ["cat", "dog", "emu", "fox", "gnu"]
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=NAMES),
        "caption": datasets.Value("string"),
        "size": datasets.Value("int8"),
    }
)


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (number, 0, 0)).save(out, "PNG")
    return out.getvalue()


def make_dataset(count: int = 40, *, image: Any = png, path: str = "train/{}.png") -> datasets.Dataset:
    rows = {
        "image": [{"bytes": image(n), "path": path.format(n)} for n in range(count)],
        "label": [n % 5 for n in range(count)],
        "caption": [f"thing {n}" for n in range(count)],
        "size": list(range(count)),
    }
    return datasets.Dataset.from_dict(rows, features=FEATURES)


def no_image(_: int) -> bytes:
    return b"nothing that can be decoded"


def test_features_order_and_images_stay() -> None:
    source = make_dataset()
    made = ck.corrupt(source, ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.4"), ck.Swap(ratio="0.5")]))
    assert isinstance(made, datasets.Dataset)
    assert (made.features, made.column_names) == (source.features, source.column_names)
    assert made["size"][:] == source["size"][:]
    assert [image.getpixel((0, 0))[0] for image in made["image"]] == list(range(40))
    assert sum(a != b for a, b in zip(made["label"], source["label"], strict=True)) == 16
    assert sorted(made["caption"]) == sorted(source["caption"]) != made["caption"][:]


@pytest.mark.parametrize("recipe", [FLIP, SWAP, DROP])
def test_images_are_neither_decoded_nor_copied(recipe: ck.Recipe) -> None:
    source = make_dataset(image=no_image)
    made = ck.corrupt(source, recipe)
    buffers = [[data.table["image"].chunk(0).field("bytes").buffers()[2].address for data in (d.data,)] for d in (source, made)]
    assert buffers[0] == buffers[1]
    stream = ck.corrupt(source.to_iterable_dataset(), recipe).with_format("arrow")
    assert next(iter(stream))["image"][0].as_py()["bytes"] == no_image(0)


def test_shuffled_rows_share_the_table_of_their_source() -> None:
    source = make_dataset(image=no_image).shuffle(seed=3).select(range(5, 30))
    made = ck.corrupt(source, FLIP)
    bare = [d.cast_column("image", datasets.Image(decode=False)) for d in (source, made)]
    assert bare[0]["image"][:] == bare[1]["image"][:]
    assert made.data.num_rows == 40
    assert sum(a != b for a, b in zip(made["label"], source["label"], strict=True)) == 10


def test_row_that_stands_twice_has_two_conditions() -> None:
    source = datasets.Dataset.from_dict({"label": [0, 1, 2]}).select([0, 1, 2, 0, 1, 2, 0, 1, 2])
    made, whole = ck.corrupt(source, FLIP), ck.corrupt(source.flatten_indices(), FLIP)
    assert made["label"][:] == whole["label"][:] != source["label"][:]


def test_fingerprint_is_the_same_each_time_and_another_for_each_variant() -> None:
    source = make_dataset()
    marks = [ck.corrupt(source, recipe)._fingerprint for recipe in (FLIP, FLIP, SWAP, FLIP.in_epoch(1))]
    assert marks[0] == marks[1]
    assert len({source._fingerprint, *marks}) == 4


def test_format_stays() -> None:
    source = make_dataset().with_format("numpy", columns=["label"], output_all_columns=True)
    made = ck.corrupt(source, FLIP)
    assert made.format == source.format
    assert isinstance(made[0]["label"], np.integer)
    stream = ck.corrupt(make_dataset().to_iterable_dataset().with_format("numpy"), FLIP)
    assert isinstance(next(iter(stream))["label"], np.integer)


@pytest.mark.parametrize("stream", [False, True])
def test_null_label_makes_classes_numbers(stream: bool) -> None:
    """As `to_datasets` describes such a variant: no class has the name of the null label."""
    source = make_dataset().to_iterable_dataset() if stream else make_dataset()
    made = ck.corrupt(source, DROP)
    assert made.features == datasets.Features({**FEATURES, "label": datasets.Value("int64")})
    assert list(made.features) == list(FEATURES)
    assert sum(row["label"] == 5 for row in made) == 8
    plan = ck.plan_corruption(source, DROP)
    assert plan.source["classes"] == 5
    again = ck.Recipe(seed=1, chain=[ck.Flip(ratio="1")])
    assert sum(row["label"] == 5 for row in ck.corrupt(made, again, classes=5, null_label=True)) == 8


def test_split_and_saved_files_give_one_variant_id(tmp_path: Path) -> None:
    source = make_dataset().train_test_split(0.25, seed=0)["test"]
    source = datasets.Dataset(source.data, info=source.info, split=datasets.NamedSplit("test[:50%]"), indices_table=source._indices)
    source.save_to_disk(tmp_path / "saved")
    saved = ck.make_plan(FLIP, ck.open_dataset(tmp_path / "saved", key="stem").index())
    mine = ck.plan_corruption(source, FLIP, key="stem")
    assert (mine.variant_id, mine.source["split"], mine.source["classes"]) == (saved.variant_id, "test", 5)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/{}.png", "a/0"),
        ("/data/a/{}.png", "0"),
        ("hf://datasets/o/n/{}.png", "0"),
        ("zip://a/{}.png::https://x/y.zip", "y"),
        ("/{}.png", "0"),
    ],
)
def test_path_counts_by_its_base_name_where_it_leads_out_of_the_data_set(path: str, key: str) -> None:
    count = 1 if path.startswith("zip") else 4
    source = make_dataset(count, path=path)
    recipe = ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")])
    for data in (source, source.to_iterable_dataset()):
        plan = ck.plan_corruption(data, recipe)
        assert plan.source["key_rule"] == "path"
        assert plan.edits["key"][0].as_py() == key
        assert all(row["label"] != n % 5 for n, row in enumerate(ck.corrupt(data, recipe)))


def test_label_that_its_type_does_not_hold_is_refused() -> None:
    source = datasets.Dataset.from_dict({"label": [127, 127]}, features=datasets.Features({"label": datasets.Value("int8")}))
    with pytest.raises(ck.DatasetError, match="the column 'label' of type int8 cannot hold every class; cast it to int64"):
        ck.corrupt(source, ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")]), classes=5000)


def test_image_that_is_not_there_is_refused() -> None:
    rows = {"key": ["a", "b"], "label": [0, 1], "image": [{"bytes": b"x", "path": None}, None]}
    source = datasets.Dataset.from_dict(
        rows, features=datasets.Features({"key": datasets.Value("string"), "label": datasets.Value("int64"), "image": datasets.Image()})
    )
    with pytest.raises(ck.DatasetError, match="b: an image without bytes"):
        ck.corrupt(source, FLIP)


def test_stream_can_be_shuffled_sharded_and_resumed() -> None:
    source = make_dataset().to_iterable_dataset(num_shards=4)
    made = ck.corrupt(source, FLIP)
    assert made.num_shards == 4
    whole = {row["size"]: row["label"] for row in made}
    assert {row["size"]: row["label"] for row in made.shuffle(seed=1, buffer_size=7)} == whole
    assert {row["size"]: row["label"] for n in range(4) for row in made.shard(4, n)} == whole
    assert {row["size"]: row["label"] for row in ck.corrupt(source.shuffle(seed=5), FLIP)} == whole
    rows = iter(made)
    for _ in range(13):
        next(rows)
    state = made.state_dict()
    left = [row["size"] for row in rows]
    made.load_state_dict(state)
    assert [row["size"] for row in made] == left


def test_stream_without_keys_is_refused() -> None:
    for columns in ({"label": [0, 1]}, {"size": [0, 1]}):
        with pytest.raises(ck.DatasetError, match="rows without keys, expected keys, since a stream may come in any order"):
            ck.corrupt(datasets.Dataset.from_dict(columns).to_iterable_dataset(), FLIP)


def test_stream_that_changes_after_planning_is_refused() -> None:
    shift = [0]

    def give_rows() -> Any:
        for n in range(9):
            yield {"key": str(n), "label": (n + shift[0]) % 3}

    for features in (None, datasets.Features({"key": datasets.Value("string"), "label": datasets.Value("int64")})):
        shift[0] = 0
        made = ck.corrupt(datasets.IterableDataset.from_generator(give_rows, features=features), FLIP)
        assert len(list(made)) == 9
        shift[0] = 1
        with pytest.raises(ck.DatasetError, match="the source has changed"):
            list(made)
