"""What must not slip by: a source that is another one now, a place that is none, a text that stays, a command that dies at its end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corruptkit import write
from corruptkit.cli import main
from corruptkit.corruptions import Flip, Swap
from corruptkit.errors import CatalogError, ConflictError, DatasetError, LeftoverWarning
from corruptkit.formats import overlay
from corruptkit.opening import open_dataset
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe
from corruptkit.restore import restore
from corruptkit.verify import verify
from tests.corruptkit.shards import HIDDEN, MEMBERS, Row, make_rows, read_variant, row_members, write_shards, write_tar

SWAP = Recipe(seed=0, chain=[Swap(ratio="0.6")])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source", make_rows(30), shards=3)


def make_variant(source: Path, out: Path, recipe: Recipe = SWAP, form: write.Format = "webdataset") -> None:
    dataset = open_dataset(source)
    write.write_variant(dataset, make_plan(recipe, dataset.index()), out, form)


def replace_images(source: Path) -> None:
    """Other images of the same sizes under the same conditions."""
    for shard in source.glob("*.tar"):
        shard.write_bytes(shard.read_bytes().replace(b"\x89PNG\r\n\x1a\n", b"\x89png\r\n\x1a\n"))


def test_law_2_resumed_run_does_not_mix_two_sources(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard = write.write_shard

    def stop_at_third(task: write.ShardTask) -> write.ShardDone:
        if task.source.first_row == 20:
            raise KeyboardInterrupt
        return write_shard(task)

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_shard", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            make_variant(source, tmp_path / "out")
    replace_images(source)
    make_variant(source, tmp_path / "out")
    make_variant(source, tmp_path / "whole")
    assert read_variant(tmp_path / "out") == read_variant(tmp_path / "whole")
    assert not verify(tmp_path / "out", source=source, deep=True).problems


def test_finished_target_of_other_images_is_refused(source: Path, tmp_path: Path) -> None:
    make_variant(source, tmp_path / "out")
    make_variant(source, tmp_path / "out")
    replace_images(source)
    with pytest.raises(ConflictError, match=r"its source's shards have other times now, .*verify --source --deep, or choose another --out"):
        make_variant(source, tmp_path / "out")


def test_overlay_that_moved_with_its_source_is_read(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    source.rename(tmp_path / "old" / "source")
    make_variant(tmp_path / "old" / "source", tmp_path / "old" / "one", form="overlay")
    make_variant(tmp_path / "old" / "one", tmp_path / "old" / "two", Recipe(seed=1, chain=[Flip(ratio="0.5")]), "overlay")
    rows = list(open_dataset(tmp_path / "old" / "two").rows())
    (tmp_path / "old").rename(tmp_path / "new")
    assert list(open_dataset(tmp_path / "new" / "two").rows()) == rows
    assert not verify(tmp_path / "new" / "two").problems
    assert main(["diff", str(tmp_path / "new" / "one"), str(tmp_path / "new" / "two"), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["changed"]) == 15


def test_variant_in_memory_is_no_source_of_files(source: Path, tmp_path: Path) -> None:
    variant = open_dataset(source).with_recipe(SWAP)
    for form in ("webdataset", "overlay"):
        with pytest.raises(CatalogError, match="edits that are in memory alone, expected a source that others can open"):
            write.write_variant(variant, make_plan(SWAP, variant.index()), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_unknown_format_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    dataset = open_dataset(source)
    with pytest.raises(CatalogError, match="found 'overly'; did you mean 'overlay'"):
        write.write_variant(dataset, make_plan(SWAP, dataset.index()), tmp_path / "out", "overly")
    assert not (tmp_path / "out").exists()


URL = "s3://key:secret@bucket/data?token=1"


@pytest.mark.parametrize(
    "words",
    [
        ("make", "--source", URL, "--swap", "0.5"),
        ("make", "--source", "source", "--swap", "0.5", "--out", URL),
        ("plan", "--source", "source", "--swap", "0.5", "--out", URL),
        ("verify", URL),
        ("show", URL),
        ("restore", URL, "--out", "x"),
        ("fetch", "openmoji", "--out", URL),
        ("index", URL),
    ],
)
def test_url_is_refused_without_its_secrets(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(source.parent)
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: s3://bucket/data")
    assert "secret" not in said.err + said.out
    assert "token" not in said.err + said.out
    assert sorted(path.name for path in source.parent.iterdir()) == ["source"]


def test_restore_does_not_write_to_a_url(source: Path, tmp_path: Path) -> None:
    make_variant(source, tmp_path / "out")
    with pytest.raises(DatasetError, match="a URL, expected a path"):
        restore(tmp_path / "out", URL)


def test_field_of_a_json_that_is_called_json_is_rewritten_alone(tmp_path: Path) -> None:
    members = [(f"{n}.json", json.dumps({"json": n % 3, "k": "kept"}).encode()) for n in range(9)]
    (tmp_path / "source").mkdir()
    write_tar(tmp_path / "source" / "a.tar", members)
    dataset = open_dataset(tmp_path / "source", label_column="json")
    plan = make_plan(Recipe(seed=0, chain=[Flip(ratio=1)]), dataset.index())
    write.write_variant(dataset, plan, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "a.tar") as tar:
        found = [json.loads(tar.extractfile(member).read()) for member in tar]
    new = [int(value) for value in plan.edits["new"].to_pylist()]
    assert found == [{"json": value, "k": "kept"} for value in new]


def test_old_caption_that_stays_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(f"{n:03d}", 0, f'the \u00e9t\u00e9 of {n} "here"') for n in range(10)]
    members = []
    for row in rows:
        members += [(f"{row.key}.{s}", c) for s, c in row_members(row, MEMBERS[:3])]
        members.append((f"{row.key}.json", json.dumps({"caption": row.caption, "alt": [row.caption]}).encode()))
    (tmp_path / "source").mkdir()
    write_tar(tmp_path / "source" / "a.tar", members)
    texts = [row.caption for row in rows]
    pq.write_table(pa.table({"key": [row.key for row in rows], "caption": texts, "alt": texts}), tmp_path / "source" / "a.parquet")
    words = ["make", "--source", str(tmp_path / "source"), "--swap", "0.4", "--workers", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "warning: " in (err := capsys.readouterr().err)
    assert "out: 4 edited rows still tell their old caption" in err, "a row counts once, though tar and side-car tell it"
    with pytest.warns(LeftoverWarning, match="all: 10 edited rows"):
        make_variant(tmp_path / "source", tmp_path / "all", Recipe(seed=0, chain=[Swap(ratio=1)]))


def test_swap_that_leaves_nothing_warns_of_nothing(source: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    make_variant(source, tmp_path / "out", Recipe(seed=0, chain=[Swap(ratio=1)]))
    assert not recwarn.list


def test_plan_of_many_bytes_is_written_in_smaller_groups(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = make_plan(Recipe(seed=0, chain=[Swap(ratio=1)]), open_dataset(source).index()).edits
    monkeypatch.setattr(overlay, "_GROUP_BYTES", edits.nbytes // 5)
    with (tmp_path / "plan.parquet").open("wb") as file:
        overlay.write_edits(edits, file)
    assert pq.ParquetFile(tmp_path / "plan.parquet").num_row_groups >= 5
    assert overlay.read_edits(tmp_path / "plan.parquet").equals(edits.combine_chunks())


def test_index_sweeps_what_killed_runs_left(source: Path) -> None:
    (source / HIDDEN).mkdir()
    (source / HIDDEN / "index-0123.arrow.999999999.tmp").write_bytes(b"half")
    running = source / HIDDEN / f"index-0123.arrow.{os.getpid()}.tmp"
    running.write_bytes(b"being written")
    open_dataset(source).index()
    assert running.exists()
    assert [path.name for path in (source / HIDDEN).glob("*.tmp")] == [running.name]


def test_shards_that_would_be_left_out_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "more.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DatasetError, match=r"more\.tar\.gz: a compressed tar"):
        open_dataset(source)
    other = write_shards(tmp_path / "other", make_rows(4), shards=2)
    min(other.glob("*.tar")).rename(other / "test-0000.tar")
    with pytest.raises(DatasetError, match="1 shards that name no split, such as "):
        open_dataset(other)


def test_edited_index_is_made_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = open_dataset(source).with_recipe(SWAP)
    first = variant.index()
    monkeypatch.setattr("corruptkit.dataset.edit_index", lambda *_: pytest.fail("once is enough"))
    assert variant.index() is first


@pytest.mark.slow
def test_command_that_reads_a_plan_never_dies_at_its_end(source: Path, tmp_path: Path) -> None:
    """Threads of a library that outlive the interpreter abort one process in some hundred."""
    make_variant(source, tmp_path / "out")
    command = [shutil.which("taskset") or "env", *(["-c", "0"] if shutil.which("taskset") else [])]
    command += [sys.executable, "-m", "corruptkit", "show", str(tmp_path / "out"), "--edits", "5"]
    ends = [subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode for _ in range(300)]
    assert ends == [0] * 300
