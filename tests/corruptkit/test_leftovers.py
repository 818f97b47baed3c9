"""The old caption of an edited row in a place that is not rewritten: whatever place it is, the warning counts the row once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corruptkit.corruptions import Swap
from corruptkit.errors import LeftoverWarning
from corruptkit.formats import webdataset
from corruptkit.opening import open_dataset
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe
from corruptkit.tasks import Format
from corruptkit.write import write_variant, write_variants
from tests.corruptkit.shards import write_tar

COUNT = 10
CAPTIONS = [f'caption "number" {n}, \u00e9t\u00e9' for n in range(COUNT)]


def leftovers(source: Path, *, column: str = "", form: Format = "webdataset", out: str = "out") -> int:
    """How many rows the warning of a variant counts that exchanges all captions; 0 where nothing is warned of."""
    dataset = open_dataset(source, caption_column=column)
    plan = make_plan(Recipe(seed=0, chain=[Swap(ratio=1)]), dataset.index())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_variant(dataset, plan, source.parent / out, form)
    said = [str(warning.message) for warning in caught if warning.category is LeftoverWarning]
    assert len(said) == len(caught) <= 1
    return int(said[0].partition(" edited rows")[0].rpartition(" ")[2]) if said else 0


def pack(folder: Path, *suffixes: str, texts: Sequence[str] = CAPTIONS) -> Path:
    """Samples with a caption in a .txt and the same text in further members."""
    folder.mkdir()
    members = []
    for n, (caption, text) in enumerate(zip(CAPTIONS, texts, strict=True)):
        members += [(f"{n}.jpg", b"an image that tells " + text.encode()), (f"{n}.txt", caption.encode())]
        members += [(f"{n}.{suffix}", json.dumps({"alt": text}).encode() if "json" in suffix else text.encode()) for suffix in suffixes]
    write_tar(folder / "a.tar", members)
    return folder


@pytest.mark.parametrize("suffix", ["json", "caption", "alt", "meta.json", "html"])
def test_another_member_is_told_of(tmp_path: Path, suffix: str) -> None:
    source = pack(tmp_path / "source", suffix)
    assert leftovers(source) == COUNT
    if suffix != "caption":  # a row of a table has one caption, and no other column of that name: refused
        assert leftovers(source, form="parquet", out="parquet") == COUNT


def test_row_counts_once_however_often_it_tells(tmp_path: Path) -> None:
    source = pack(tmp_path / "source", "json", "alt")
    keys = [f"{n}" for n in range(COUNT)]
    pq.write_table(pa.table({"key": keys, "caption": CAPTIONS, "alt": CAPTIONS}), source / "a.parquet")
    assert leftovers(source) == COUNT


def test_members_that_tell_nothing_are_no_leftovers(tmp_path: Path) -> None:
    """An image is not looked at; a text of another row tells nothing of this one."""
    assert leftovers(pack(tmp_path / "source", "json", "alt", texts=["something else"] * COUNT)) == 0


def test_long_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "_LARGEST_TEXT", max(len(text.encode()) for text in CAPTIONS))
    assert leftovers(pack(tmp_path / "source", "alt")) == COUNT
    monkeypatch.setattr(webdataset, "_LARGEST_TEXT", min(len(text.encode()) for text in CAPTIONS) - 1)
    assert leftovers(tmp_path / "source", out="again") == 0


def test_txt_beside_the_named_caption_is_told_of(tmp_path: Path) -> None:
    source = pack(tmp_path / "source", "alt")
    assert leftovers(source, column="alt") == COUNT


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        ({"alt": CAPTIONS}, COUNT),
        ({"caption": CAPTIONS, "url": ["u"] * COUNT}, 0),
        ({"tags": [[text] for text in CAPTIONS]}, COUNT),
        ({"caption": CAPTIONS, "key": list(range(COUNT))}, None),
    ],
    ids=["no caption", "nothing", "in lists", "keys as numbers"],
)
def test_sidecar_is_looked_at_whatever_it_holds(tmp_path: Path, columns: dict[str, list], count: int | None) -> None:
    source = pack(tmp_path / "source")
    pq.write_table(pa.table({"key": [f"{n}" for n in range(COUNT)]} | columns), source / "a.parquet")
    if count is None:
        with pytest.raises(Exception, match="keys of type int64"):
            leftovers(source)
    else:
        assert leftovers(source) == count


@pytest.mark.parametrize("named", ["recap", "caption"])
def test_caption_column_beside_the_named_one_is_told_of(tmp_path: Path, named: str) -> None:
    """The column `caption` stays as it is in Parquet where another one is named; other formats cannot hold it, and are refused."""
    (tmp_path / "source").mkdir()
    keys = [f"{n}" for n in range(COUNT)]
    pq.write_table(pa.table({"key": keys, "caption": CAPTIONS, "recap": CAPTIONS}), tmp_path / "source" / "a.parquet")
    assert leftovers(tmp_path / "source", column=named, form="parquet") == COUNT
    if named == "caption":
        assert leftovers(tmp_path / "source", column=named, form="webdataset", out="tars") == COUNT


def test_caption_below_an_overlay_is_told_of(tmp_path: Path) -> None:
    """What an overlay replaced still stands in the tar below it, and goes into a variant of the overlay."""
    source = pack(tmp_path / "source", "alt")
    assert leftovers(source, form="overlay", out="overlay") == 0
    dataset = open_dataset(tmp_path / "overlay")
    plan = make_plan(Recipe(seed=5, chain=[Swap(ratio="0.2")]), dataset.index())
    with pytest.warns(LeftoverWarning, match=f": {COUNT} edited rows"):
        write_variant(dataset, plan, tmp_path / "variant", "webdataset")


def test_warning_names_the_line_that_called(tmp_path: Path) -> None:
    dataset = open_dataset(pack(tmp_path / "source", "alt"))
    plan = make_plan(Recipe(seed=0, chain=[Swap(ratio=1)]), dataset.index())
    for write in (lambda out: write_variant(dataset, plan, out), lambda out: write_variants(dataset, [(plan, out)])):
        with pytest.warns(LeftoverWarning) as caught:
            write(tmp_path / f"out-{id(write)}")
        assert [warning.filename for warning in caught] == [__file__]
