"""Rows in another format: what is kept as it is, what other readers see of it, and what cannot be written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import corruptkit as ck

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
