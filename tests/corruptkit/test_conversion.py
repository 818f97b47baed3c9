"""Rows in another format: what is kept as it is, what other readers see of it, and what cannot be written."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import corruptkit as ck
from corruptkit.conversion import describe_features
from corruptkit.errors import DatasetError
from corruptkit.formats import parquet
from tests.corruptkit.shards import write_tar

FORMATS = ("webdataset", "parquet", "arrow")
SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")])
FLIP = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.5")])


def write_variant(source: Path, recipe: ck.Recipe, form: str, **how: str) -> Path:
    """A variant beside its source, checked against it."""
    dataset = ck.open_dataset(source, **how)
    out = source.with_name(f"{source.name}-{form}")
    ck.write_variant(dataset, ck.make_plan(recipe, dataset.index()), out, form)
    assert ck.verify(out, source=source, deep=True).problems == ()
    return out


def write_parquet(path: Path, **columns: object) -> Path:
    path.mkdir()
    pq.write_table(pa.table(columns), path / "a.parquet")
    return path


def draw_png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 7)).save(content, "PNG")
    return content.getvalue()


# Keys


@pytest.mark.parametrize("form", ["webdataset", "arrow"])
def test_key_of_a_pattern_is_read_back(tmp_path: Path, form: str) -> None:
    images = [{"bytes": b"x", "path": f"img_{n}.jpg"} for n in range(4)]
    source = write_parquet(tmp_path / "src", image=images, caption=["one", "two", "three", "four"])
    out = write_variant(source, SWAP, form, key="regex:img_(.*)")
    assert [row["key"] for row in ck.open_dataset(out).rows()] == ["0", "1", "2", "3"]
    again = ck.open_dataset(ck.restore(out, tmp_path / "again"), key="sample" if form == "webdataset" else "column:key")
    assert {row["key"]: row["caption"] for row in again.rows()} == {"0": "one", "1": "two", "2": "three", "3": "four"}


@pytest.mark.parametrize("form", FORMATS)
def test_numbers_of_a_folder_of_images_stay_with_their_images(tmp_path: Path, form: str) -> None:
    for number in range(12):
        path = tmp_path / "src" / "ab"[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    expected = {row["key"]: row for row in ck.open_dataset(tmp_path / "src", key="ordinal").with_recipe(FLIP).rows()}
    out = write_variant(tmp_path / "src", FLIP, form, key="ordinal")
    assert {row["key"]: row for row in ck.open_dataset(out).rows()} == expected
    assert len(list(ck.open_dataset(ck.restore(out, tmp_path / "again")).rows())) == 12


# Nulls


def read_tar(folder: Path) -> dict[str, bytes]:
    with tarfile.open(next(folder.glob("*.tar"))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_json_of_a_tar_has_every_column_in_every_row(tmp_path: Path) -> None:
    columns = {"n": [1, None, None, 2], "tags": [None, ["x", None], [], None], "none": pa.nulls(4), "void": pa.nulls(4, pa.binary())}
    source = write_parquet(tmp_path / "src", key=list("abcd"), caption=["one", "two", "three", "four"], **columns)
    found = read_tar(write_variant(source, SWAP, "webdataset"))
    assert {name: json.loads(content) for name, content in found.items() if name.endswith(".json")} == {
        "a.json": {"n": 1, "none": None, "tags": None},
        "b.json": {"n": None, "none": None, "tags": ["x", None]},
        "c.json": {"n": None, "none": None, "tags": []},
        "d.json": {"n": 2, "none": None, "tags": None},
    }
    assert {name.partition(".")[2] for name in found} == {"txt", "json"}, "a column that is null everywhere is no member"
    first = next(iter(ck.open_dataset(source).to_webdataset()))
    assert json.loads(first["json"]) == {"n": 1, "none": None, "tags": None}


def test_datasets_reads_tars_of_rows_with_nulls(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = write_parquet(tmp_path / "src", key=list("abcd"), caption=["one", "two", "three", "four"], n=[1, None, None, 2])
    out = write_variant(source, SWAP, "webdataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = datasets.load_dataset("webdataset", data_files=str(out / "*.tar"), split="train", cache_dir=str(tmp_path / "c"))
        assert [row["json"]["n"] for row in found] == [1, None, None, 2]


@pytest.mark.parametrize("form", FORMATS)
def test_row_whose_caption_is_named_can_be_left_out_of_tars(tmp_path: Path, form: str) -> None:
    source = write_parquet(tmp_path / "src", key=list("abc"), caption=["one", None, "two"])
    out = write_variant(source, SWAP, form, caption_column="caption", bad="exclude")
    assert {row["key"]: row["caption"] for row in ck.open_dataset(out).rows()} == {"a": "two", "c": "one"}


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_sample_without_an_image_has_none_in_a_table(tmp_path: Path, form: str) -> None:
    (tmp_path / "src").mkdir()
    write_tar(tmp_path / "src" / "0.tar", [("a.jpg", b"x"), ("a.txt", b"one"), ("b.txt", b"two")])
    out = write_variant(tmp_path / "src", SWAP, form)
    assert [row.get("image") for row in ck.open_dataset(out).rows()] == [b"x", None]
    datasets = pytest.importorskip("datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = datasets.load_from_disk(str(out)) if form == "arrow" else load_parquet(out, tmp_path)
        assert loaded.cast_column("image", datasets.Image(decode=False))[1]["image"] is None


# Images without bytes


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_image_without_bytes_can_be_excluded(tmp_path: Path, *, nested: bool, statistics: bool) -> None:
    contents = [b"x", b"x", None, b"x", b"", None]
    images = [{"bytes": content, "path": None} for content in contents] if nested else contents
    table = pa.table({"key": list("abcdef"), "image": images, "caption": list("123456")})
    (tmp_path / "src").mkdir()
    pq.write_table(table, tmp_path / "src" / "0.parquet", row_group_size=2, write_statistics=statistics)
    with pytest.raises(DatasetError, match=r"0.parquet, c: an image without bytes, expected an image in every row"):
        ck.open_dataset(tmp_path / "src").index()
    dataset = ck.open_dataset(tmp_path / "src", bad="exclude")
    assert [row["position"] for row in dataset.index().excluded.to_pylist()] == [2, 5]
    for form in FORMATS:
        out = write_variant(tmp_path / "src", SWAP, form, bad="exclude")
        assert [row["key"] for row in ck.open_dataset(out).rows()] == ["a", "b", "d", "e"]


def test_index_reads_no_image_where_the_file_counts_nulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [{"bytes": content, "path": None} for content in (b"x", b"x", b"x", b"x", b"x", None)]
    source = write_parquet(tmp_path / "src", key=list("abcdef"), image=images)
    pq.write_table(pq.read_table(source), source / "a.parquet", row_group_size=2)
    read, groups = parquet._read_pieces, list[object]()
    monkeypatch.setattr(
        parquet, "_read_pieces", lambda file, group, columns: [groups.append((group, columns)), read(file, group, columns)][1]
    )
    assert len(ck.open_dataset(source, bad="exclude").index()) == 5
    assert groups == [([2], ["image.bytes"])]


# Large row groups


@pytest.mark.parametrize("bad", ["refuse", "exclude"])
@pytest.mark.parametrize("key", ["path", "column:id"])
def test_large_row_groups_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, bad: str) -> None:
    contents = [b"%d" % n * 50 for n in range(8)]
    contents[3] = None if bad == "exclude" else contents[3]
    images = [{"bytes": content, "path": f"{n}.jpg"} for n, content in enumerate(contents)]
    source = write_parquet(tmp_path / "src", image=images, id=list("01234567"), caption=[f"caption {n}" for n in range(8)])
    whole = write_variant(source, SWAP, "parquet", key=key, bad=bad).rename(tmp_path / "whole")
    sizes, read = list[int](), parquet.standard_tables
    monkeypatch.setattr(parquet, "_LARGEST_GROUP", 1)
    monkeypatch.setattr(parquet, "_PIECE_BYTES", 200)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    monkeypatch.setattr(parquet, "standard_tables", lambda pieces, *how: read((sizes.append(len(p)) or p for p in pieces), *how))
    parquet._read_group.cache_clear()
    again = write_variant(source, SWAP, "parquet", key=key, bad=bad)
    assert pq.read_table(again).equals(pq.read_table(whole))
    assert pq.ParquetFile(again / "a.parquet").num_row_groups == 1
    assert list(ck.open_dataset(again).rows()) == list(ck.open_dataset(whole).rows())
    assert ck.open_dataset(again).row(-1) == list(ck.open_dataset(whole).rows())[-1]
    write_variant(source, SWAP, "arrow", key=key, bad=bad)
    assert 0 < max(sizes) < 8


# What `datasets` sees


COLUMNS = {
    "day": pa.array([0, 1], pa.date32()),
    "half": pa.array([1.5, None], pa.float16()),
    "single": pa.array([1.5, 2.5], pa.float32()),
    "double": pa.array([1.5, 2.5], pa.float64()),
    "flag": pa.array([True, None]),
    "moment": pa.array([0, 1], pa.timestamp("us", "UTC")),
    "price": pa.array([1, 2]).cast(pa.decimal128(21, 2)),
    "list": pa.array([[1, 2], None], pa.list_(pa.int16())),
    "large": pa.array([["x"], []], pa.large_list(pa.large_string())),
    "pair": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
    "record": pa.array(
        [{"x": [{"y": "z"}], "d": 0}, None], pa.struct([("x", pa.list_(pa.struct([("y", pa.string())]))), ("d", pa.date32())])
    ),
    "word": pa.array(["x", "y"]).dictionary_encode(),
}


def load_parquet(out: Path, tmp_path: Path) -> Any:
    import datasets

    return datasets.load_dataset("parquet", data_files=str(out / "data/*.parquet"), split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_datasets_knows_types_images_and_classes(tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": draw_png(n), "path": f"{n}.png"} for n in range(2)]
    table = pa.table({"key": ["a", "b"], "image": images, "label": [0, 1], **COLUMNS})
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    (tmp_path / "src").mkdir()
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    given = "arrow" if form == "parquet" else "parquet"
    if given == "parquet":
        pq.write_table(table, tmp_path / "src" / "0.parquet")
    else:
        with pa.ipc.new_stream(tmp_path / "src" / "0.arrow", table.schema) as stream:
            stream.write_table(table)
    out = write_variant(tmp_path / "src", FLIP, form)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = datasets.load_from_disk(str(out)) if form == "arrow" else load_parquet(out, tmp_path)
        assert loaded.features["image"] == datasets.Image()
        assert loaded.features["label"] == datasets.ClassLabel(names=["cat", "dog"])
        assert loaded[0]["image"].size == (4, 4)
        expected = datasets.Features.from_arrow_schema(pa.schema([(name, column.type) for name, column in COLUMNS.items()]))
        assert {name: loaded.features[name] for name in COLUMNS} == dict(expected)
        assert {name: loaded[name][:] for name in COLUMNS} == {name: column.to_pylist() for name, column in COLUMNS.items()}


def test_column_that_datasets_has_no_word_for_leaves_all_to_it() -> None:
    schema = pa.schema([("key", pa.string()), ("more", pa.list_(pa.map_(pa.string(), pa.int8())))])
    assert describe_features(schema, ()) == {}
    assert describe_features(pa.schema([("x", pa.month_day_nano_interval())]), ()) == {}
