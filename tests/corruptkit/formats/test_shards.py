"""Which files are the shards of a split: folders, patterns, single tars, split words and timm's _info.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corruptkit.errors import DatasetError
from corruptkit.formats.shards import find_shards
from corruptkit.opening import open_dataset
from tests.corruptkit.shards import make_rows, row_members, write_tar


def touch_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def state_splits(folder: Path, splits: object, name: str = "_info.json") -> None:
    (folder / name).write_text(json.dumps({"splits": splits}), encoding="utf-8")


def names_of(path: Path, split: str | None = None) -> list[str]:
    return [shard.name for shard in find_shards(path, split).shards]


# Folders, patterns and single tars


def test_folder_holds_its_tars_in_order_of_names(tmp_path: Path) -> None:
    touch_files(
        tmp_path, "10.tar", "9.tar", "a.tar", "A.tar", "00000.parquet", "00000_stats.json", ".hidden.tar", "x.tar.tmp", "sub/deep.tar"
    )
    assert names_of(tmp_path) == ["10.tar", "9.tar", "A.tar", "a.tar"]


def test_pattern_takes_what_it_matches(tmp_path: Path) -> None:
    touch_files(tmp_path, "cc3m-train-0.tar", "cc3m-train-1.tar", "cc3m-val-0.tar", "cc3m-train-0.parquet")
    assert names_of(tmp_path / "cc3m-train-*.tar") == ["cc3m-train-0.tar", "cc3m-train-1.tar"]
    assert names_of(tmp_path / "cc3m-*-0*") == ["cc3m-train-0.tar", "cc3m-val-0.tar"]
    assert names_of(tmp_path / "cc3m-train-[1-9].tar") == ["cc3m-train-1.tar"]


def test_single_tar_is_a_source(tmp_path: Path) -> None:
    touch_files(tmp_path, "a.tar", "b.tar")
    assert names_of(tmp_path / "b.tar") == ["b.tar"]


def test_name_with_brackets_is_taken_as_it_is(tmp_path: Path) -> None:
    touch_files(tmp_path, "shard[0].tar", "shard0.tar")
    assert names_of(tmp_path / "shard[0].tar") == ["shard[0].tar"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "no such file or folder"),
        ("nothing.tar", "no"),
        ("empty", "no shard or image"),
        ("notes.txt", "no shard or image"),
        ("none-*.tar", "no "),
        ("folder.tar/x", "no such file or folder"),
    ],
)
def test_place_without_shards_is_refused_in_one_line(tmp_path: Path, name: str, said: str) -> None:
    touch_files(tmp_path, "notes.txt", "a.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError) as caught:
        find_shards(tmp_path / name, None)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / name}: ")
    assert said in text
    assert text.endswith("; mend the path")


def test_folder_named_like_a_tar_is_no_shard(tmp_path: Path) -> None:
    touch_files(tmp_path, "a.tar")
    (tmp_path / "b.tar").mkdir()
    with pytest.raises(DatasetError, match=r"b\.tar: not there, or no regular file"):
        find_shards(tmp_path, None)


def test_compressed_shards_are_named(tmp_path: Path) -> None:
    touch_files(tmp_path, "a.tar.gz", "b.tgz")
    with pytest.raises(DatasetError) as caught:
        find_shards(tmp_path, None)
    assert "a.tar.gz" in str(caught.value)


# Splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-0000.tar", "train"),
        ("imagenet1k-training-0000.tar", "train"),
        ("imagenet-validation-00.tar", "validation"),
        ("x_val_0.tar", "validation"),
        ("VALID.tar", "validation"),
        ("dev.0.tar", "validation"),
        ("Test-0.tar", "test"),
        ("00000.tar", "train"),
        ("constrained-0.tar", "train"),
        ("values-0.tar", "train"),
        ("latest-0.tar", "train"),
    ],
)
def test_split_stands_in_the_file_name(tmp_path: Path, name: str, split: str) -> None:
    touch_files(tmp_path, name)
    assert find_shards(tmp_path, None).split == split


def test_train_is_taken_where_nothing_is_stated(tmp_path: Path) -> None:
    touch_files(tmp_path, "x-test-0.tar", "x-train-0.tar", "x-train-1.tar", "x-val-0.tar")
    assert names_of(tmp_path) == ["x-train-0.tar", "x-train-1.tar"]


@pytest.mark.parametrize(
    ("split", "names"),
    [("val", ["x-val-0.tar"]), ("validation", ["x-val-0.tar"]), ("train", ["x-train-0.tar"]), ("training", ["x-train-0.tar"])],
)
def test_stated_split_is_taken(tmp_path: Path, split: str, names: list[str]) -> None:
    touch_files(tmp_path, "x-train-0.tar", "x-val-0.tar")
    assert names_of(tmp_path, split) == names


def test_only_split_needs_no_flag(tmp_path: Path) -> None:
    touch_files(tmp_path, "x-val-0.tar", "x-val-1.tar")
    assert names_of(tmp_path) == ["x-val-0.tar", "x-val-1.tar"]


def test_folder_without_split_words_is_train(tmp_path: Path) -> None:
    touch_files(tmp_path, "00000.tar", "00001.tar")
    assert names_of(tmp_path) == names_of(tmp_path, "train") == ["00000.tar", "00001.tar"]


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["x-train-0.tar", "x-val-0.tar"], "test", "expected one of: train, validation; state another --split"),
        (["00000.tar"], "val", "expected one of: train; state another --split"),
        (["x-train-0.tar"], "trian", "expected one of: train; state another --split"),
    ],
)
def test_split_that_is_not_there_is_refused(tmp_path: Path, names: list[str], split: str, expected: str) -> None:
    touch_files(tmp_path, *names)
    with pytest.raises(DatasetError) as caught:
        find_shards(tmp_path, split)
    assert str(caught.value).startswith(f"{tmp_path}: no split '")
    assert str(caught.value).endswith(expected)


def test_two_splits_without_train_are_a_question(tmp_path: Path) -> None:
    """`--split` says: default train, or the only one. Here is neither."""
    touch_files(tmp_path, "x-test-0.tar", "x-val-0.tar")
    with pytest.raises(DatasetError, match=r"test, validation.*--split"):
        find_shards(tmp_path, None)
    assert names_of(tmp_path, "test") == ["x-test-0.tar"]


@pytest.mark.parametrize("name", ["_info.json", "info.json"])
def test_stated_splits_go_before_file_names(tmp_path: Path, name: str) -> None:
    touch_files(tmp_path, "a-0.tar", "a-1.tar", "b-test-0.tar")
    state_splits(tmp_path, {"train": {"filenames": ["a-0.tar"]}, "val": {"filenames": ["a-1.tar", "b-test-0.tar"]}}, name)
    assert names_of(tmp_path) == ["a-0.tar"]
    assert names_of(tmp_path, "validation") == ["a-1.tar", "b-test-0.tar"]


@pytest.mark.parametrize("stated", ["validation", "val", "everything"])
def test_stated_split_is_the_splits_name(tmp_path: Path, stated: str) -> None:
    write_tar(tmp_path / "a-0.tar", [(f"{row.key}.{suffix}", content) for row in make_rows(3) for suffix, content in row_members(row)])
    state_splits(tmp_path, {stated: {"filenames": ["a-0.tar"]}})
    expected = "validation" if stated == "val" else stated
    assert open_dataset(tmp_path).split == open_dataset(tmp_path, split=stated).split == expected
    assert open_dataset(tmp_path).index().identity()["split"] == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"splits": []}',
        b'{"splits": {"val": {}}}',
        b'{"splits": {"val": 5}}',
        b'{"splits": {"val": {"filenames": [[]]}}}',
        b"[" * 100_000,
    ],
    ids=range(9),
)
def test_info_file_of_another_kind_is_nobodys_business(tmp_path: Path, content: bytes) -> None:
    touch_files(tmp_path, "a-0.tar", "a-1.tar")
    (tmp_path / "_info.json").write_bytes(content)
    assert names_of(tmp_path) == ["a-0.tar", "a-1.tar"]


def test_split_of_a_single_tar_is_as_stated_else_as_named(tmp_path: Path) -> None:
    touch_files(tmp_path, "x-val-0.tar", "y.tar")
    assert find_shards(tmp_path / "x-val-0.tar", None).split == "validation"
    assert find_shards(tmp_path / "y.tar", None).split == "train"
    assert find_shards(tmp_path / "y.tar", "dev").split == "validation"
    assert find_shards(tmp_path / "y.tar", "mine").split == "mine"
