"""Restoring: where it may write, what it leaves where it fails, and what it says of the bytes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corruptkit.cli import main
from corruptkit.errors import CatalogError, ConflictError
from corruptkit.formats.arrow import describe_state
from corruptkit.opening import open_dataset
from corruptkit.restore import restore
from tests.corruptkit.shards import HIDDEN, make_rows, read_tree, write_shards

TABLE = pa.table({"key": [f"{n}" for n in range(8)], "caption": [f"caption {n}" for n in range(8)]})


def make_source(folder: Path, form: str) -> Path:
    folder.mkdir()
    if form == "webdataset":
        return write_shards(folder, make_rows(8))
    if form == "parquet":
        pq.write_table(TABLE, folder / "a.parquet", compression="snappy")
    elif form == "arrow":
        with pa.ipc.new_stream(folder / "a.arrow", TABLE.schema) as writer:
            writer.write_table(TABLE)
        (folder / "state.json").write_bytes(describe_state(["a.arrow"], "train", "mine").replace(b"  ", b"\t"))
        (folder / "dataset_info.json").write_text("{ }", encoding="utf-8")
    else:
        for name in ("a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: str) -> None:
    assert main(words.split()) == 0, words


def corrupt(form: str) -> str:
    return "--flip 1" if form == "imagefolder" else "--swap 1"


@pytest.mark.parametrize("made", ["overlay", "same"])
@pytest.mark.parametrize("form", ["webdataset", "parquet", "arrow", "imagefolder"])
def test_target_inside_the_source_is_refused(here: Path, form: str, made: str) -> None:
    source = make_source(here / "src", form)
    run(f"make --source src {corrupt(form)} --out v" + (" --format overlay" if made == "overlay" else ""))
    before = read_tree(source)
    for place in ("src/back", "src/deep/er"):
        with pytest.raises(ConflictError, match=r"the source lies at .*choose another --out"):
            restore("v", place)
    assert read_tree(source) == before
    assert not (source / "back").exists()
    run("restore v --out src-again")


@pytest.mark.parametrize("form", ["webdataset", "parquet", "arrow", "imagefolder"])
def test_overlay_gives_its_source_byte_for_byte(here: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source(here / "src", form)
    run(f"make --source src {corrupt(form)} --format overlay --out v")
    capsys.readouterr()
    run("restore v --out again")
    assert capsys.readouterr().out == "again: the source of v, byte for byte\n"
    assert read_tree(here / "again") == {name: content for name, content in read_tree(source).items() if HIDDEN not in name}


@pytest.mark.parametrize(
    ("form", "words", "exact"),
    [
        ("webdataset", "", True),
        ("webdataset", "--format parquet", False),
        ("parquet", "", False),
        ("arrow", "", False),
        ("parquet", "--format webdataset", False),
    ],
)
def test_what_is_restored_is_said(here: Path, form: str, words: str, exact: bool, capsys: pytest.CaptureFixture[str]) -> None:
    make_source(here / "src", form)
    run(f"make --source src --swap 1 --out v {words}")
    capsys.readouterr()
    run("restore v --out again")
    how = "byte for byte" if exact else "row by row, in bytes of their own"
    assert capsys.readouterr().out == f"again: the source of v, {how}\n"
    conditions = [{row["key"]: row["caption"] for row in open_dataset(place).rows()} for place in ("src", "again")]
    assert conditions[0] == conditions[1]


@pytest.mark.parametrize(("form", "exact"), [("overlay", False), ("parquet", True)])
def test_overlay_over_a_variant_says_what_it_gives(here: Path, form: str, exact: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A written variant below is copied; an overlay below is written out."""
    make_source(here / "src", "parquet")
    run(f"make --source src --swap 1 --format {form} --out below")
    run("make --source below --swap 0.5 --seed 3 --format overlay --out v")
    capsys.readouterr()
    run("restore v --out again")
    assert ("byte for byte" in capsys.readouterr().out) == exact
    rows = [{row["key"]: row["caption"] for row in open_dataset(place).rows()} for place in ("below", "again")]
    assert rows[0] == rows[1]
    assert not exact or (here / "again" / "a.parquet").read_bytes() == (here / "below" / "a.parquet").read_bytes()


@pytest.mark.parametrize("made", [True, False])
def test_restoring_that_fails_leaves_nothing(here: Path, made: bool) -> None:
    make_source(here / "src", "imagefolder")
    run("make --source src --flip 0.5 --format overlay --out below")
    run("make --source below --flip 0.5 --format overlay --out v")
    if not made:
        (here / "again").mkdir()
    with pytest.raises(CatalogError, match="an overlay over an overlay of a folder of images"):
        restore("v", "again")
    assert not (here / "again").exists() if made else not list((here / "again").iterdir())


def test_plan_beside_parquet_is_no_shard(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(here / "src", "parquet")
    monkeypatch.chdir(source)
    run("plan --source . --swap 1")
    assert [path.name for path in source.glob("*.plan.parquet")] == ["src-swap-1-s0.plan.parquet"]
    run("index .")
    assert [shard.name for shard in open_dataset(source).shards] == ["a.parquet"]
    assert [shard.name for shard in open_dataset(source / "*.parquet").shards] == ["a.parquet"]
