"""Writing a variant: what lies at the target, what has become of the source, and that no clean condition is left."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corruptkit import write
from corruptkit.cli import main
from corruptkit.dataset import Dataset
from corruptkit.edits import digest_edits
from corruptkit.errors import ConflictError, CorruptkitError, DatasetError, IntegrityError
from corruptkit.files import lock_folder
from corruptkit.manifest import Manifest
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import parse_recipe
from corruptkit.verify import verify
from corruptkit.write import write_variant
from tests.corruptkit.damage import (
    PARTIAL,
    Disk,
    Json,
    assert_whole,
    caption_of,
    chain_recipe,
    published_source,
    run_command,
    small_disk,
)
from tests.corruptkit.shards import HIDDEN, Row, make_rows, read_members, read_tree, read_variant, write_shards

SWAP: Json = {"kind": "swap", "ratio": "0.5"}
FLIP: Json = {"kind": "flip", "ratio": "0.5"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source", make_rows(30), shards=3)


def plan_of(dataset: Dataset, *chain: Json, seed: str = "0") -> Plan:
    return make_plan(parse_recipe({"seed": seed, "chain": list(chain or [SWAP])}, "test"), dataset.index())


def make(source: Path, out: Path, *chain: Json, seed: str = "0", form: write.Format = "webdataset", **how: Any) -> Manifest:
    dataset = open_dataset(source)
    return write_variant(dataset, plan_of(dataset, *chain, seed=seed), out, form, **how)


def take_stock(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file and folder with its size, time and number: whoever writes changes one of them."""
    stats = {path.relative_to(folder).as_posix(): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats.items()}


def problem_of(kind: type[CorruptkitError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# The same target again


@pytest.mark.parametrize("form", ["webdataset", "overlay"])
def test_same_command_again_returns_at_once(form: write.Format, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(source, tmp_path / "out", form=form)
    before = take_stock(tmp_path / "out")
    monkeypatch.setattr(write, "map_shards", None)
    assert make(source, tmp_path / "out", form=form) == first
    assert take_stock(tmp_path / "out") == before


def test_same_command_line_again_changes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["make", "--source", str(source), "--swap", "0.5", "--out", str(tmp_path / "out")]
    assert main([*words, "--workers", "1"]) == 0
    said, before = capsys.readouterr().out, take_stock(tmp_path / "out")
    assert main([*words, "--workers", "2"]) == 0
    assert capsys.readouterr().out == said
    assert take_stock(tmp_path / "out") == before


def test_leftovers_of_a_finished_run_are_cleared(source: Path, tmp_path: Path) -> None:
    """A run that was killed after its manifest and before it had put away its records."""
    make(source, tmp_path / "out")
    before = take_stock(tmp_path / "out")
    (tmp_path / "out" / PARTIAL).mkdir()
    (tmp_path / "out" / PARTIAL / "shard-00000.tar.json").write_text("{}")
    (tmp_path / "out" / PARTIAL / "manifest.json.77.tmp").touch()
    make(source, tmp_path / "out")
    after = take_stock(tmp_path / "out")
    assert {name: stock for name, stock in after.items() if name != HIDDEN} == {n: s for n, s in before.items() if n != HIDDEN}


def test_leftovers_of_an_unfinished_run_do_not_count_as_done(source: Path, tmp_path: Path) -> None:
    """Records that are broken, of another variant, or of a shard that has gone or changed its size: that shard is written again."""
    make(source, tmp_path / "whole")
    out, partial = tmp_path / "out", tmp_path / "out" / PARTIAL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_finish_files", stop_run)
        problem_of(DatasetError, lambda: make(source, out))
    records = sorted(partial.glob("*.tar.json"))
    assert len(records) == 3
    records[0].write_text(records[0].read_text().replace('"variant_id":"', '"variant_id":"f'))
    records[1].write_text("{")
    os.truncate(out / "shard-00002.tar", 1024)
    (partial / "target.json.77.tmp").write_bytes(b"half")
    make(source, out)
    assert_whole(out, tmp_path / "whole")


def stop_run(*_: object) -> None:
    raise OSError(5, "Input/output error")


# Another target


@pytest.mark.parametrize(
    ("chain", "seed", "form", "field"),
    [
        ([SWAP], "1", "webdataset", "identity.recipe.seed"),
        ([SWAP | {"ratio": "0.4"}], "0", "webdataset", "identity.recipe.chain"),
        ([FLIP], "0", "webdataset", "identity.recipe.chain"),
        ([SWAP], "0", "overlay", "format"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_variant_is_refused(
    finished: bool, chain: list[Json], seed: str, form: write.Format, field: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        if finished:
            make(source, out)
        else:
            patch.setattr(write, "_finish_files", stop_run)
            problem_of(DatasetError, lambda: make(source, out))
    before = take_stock(out)
    said = problem_of(ConflictError, lambda: make(source, out, *chain, seed=seed, form=form)).splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"{out}, {field}: it holds another variant: ")
    assert said[0].endswith("; choose another --out")
    assert take_stock(out) == before
    make(source, out)
    assert verify(out).problems == ()


def test_same_rows_in_other_shards_are_another_variant(source: Path, tmp_path: Path) -> None:
    """The id is the same and the bytes would not be."""
    other = write_shards(tmp_path / "other", make_rows(30), shards=2)
    first = make(source, tmp_path / "out")
    before = take_stock(tmp_path / "out")
    said = problem_of(ConflictError, lambda: make(other, tmp_path / "out"))
    assert said.startswith(f"{tmp_path / 'out'}, source.shards: it holds another variant: ")
    assert take_stock(tmp_path / "out") == before
    assert make(other, tmp_path / "new").variant_id == first.variant_id


def test_another_source_is_refused_with_what_differs(source: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", make_rows(30, classes=9), shards=3)
    make(source, tmp_path / "out")
    said = problem_of(ConflictError, lambda: make(other, tmp_path / "out"))
    fields = {line.partition(": ")[0].rpartition(", ")[2] for line in said.splitlines()}
    assert fields >= {"identity.source.classes", "identity.source.fingerprint"}


@pytest.mark.parametrize("name", ["photo.jpg", "shard-00000.tar", "sub/file"])
def test_folder_with_something_else_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_bytes(b"mine")
    before = take_stock(tmp_path / "out")
    said = problem_of(ConflictError, lambda: make(source, tmp_path / "out"))
    assert (
        said == f"{tmp_path / 'out'}: the folder holds '{name.partition('/')[0]}', expected an empty folder or none; choose another --out"
    )
    assert take_stock(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["out", "out/deeper"])
def test_file_in_the_way_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    assert problem_of(ConflictError, lambda: make(source, tmp_path / name)).startswith(f"{tmp_path / 'out'}")
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_empty_folder_is_taken(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(source, tmp_path / "out")
    assert verify(tmp_path / "out").problems == ()


def test_records_that_are_no_json_are_refused(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / PARTIAL / "target.json"
    target.parent.mkdir(parents=True)
    for content in (b"", b"{", b"[]", b"\xff"):
        target.write_bytes(content)
        assert str(tmp_path / "out") in problem_of(ConflictError, lambda: make(source, tmp_path / "out"))
        assert target.read_bytes() == content


def test_damaged_manifest_at_the_target_is_told(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    path = tmp_path / "out" / HIDDEN / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"swap", b"swop"))
    assert problem_of(IntegrityError, lambda: make(source, tmp_path / "out")).startswith(f"{path}: does not match manifest.sha256")


@pytest.mark.parametrize("place", ["source", "source/variant", "source/a/b", ".", "linked", "linked/variant"])
def test_target_and_source_may_not_hold_each_other(place: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(source)
    open_dataset(source).index()
    before = take_stock(source)
    said = problem_of(ConflictError, lambda: make(source, tmp_path / place))
    assert said == f"{tmp_path / place}: the source lies at {source}, expected a folder apart from the source; choose another --out"
    assert take_stock(source) == before


def test_variant_of_an_overlay_may_not_lie_in_either(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "overlay", form="overlay")
    for place in (source / "variant", tmp_path / "overlay" / "variant", tmp_path / "overlay"):
        assert "the source lies at" in problem_of(ConflictError, lambda place=place: make(tmp_path / "overlay", place, FLIP))
    make(tmp_path / "overlay", tmp_path / "out", FLIP)
    assert verify(tmp_path / "out", source=tmp_path / "overlay", deep=True).problems == ()


def test_neighbour_whose_name_begins_like_the_source_is_apart(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "source-variant")
    assert verify(tmp_path / "source-variant").problems == ()


def test_target_that_another_run_is_writing_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"):
        said = problem_of(ConflictError, lambda: make(source, tmp_path / "out"))
        assert said == f"{tmp_path / 'out'}: another run is writing here; wait for it or choose another --out"
        words = ["make", "--source", str(source), "--swap", "0.5", "--out", str(tmp_path / "out")]
        assert run_command(*words) == (2, "", f"error: {said}\n")
        assert list((tmp_path / "out").iterdir()) == []
    make(source, tmp_path / "out")


def test_two_variants_are_written_side_by_side(source: Path, tmp_path: Path) -> None:
    with lock_folder(source):
        make(source, tmp_path / "one")
    make(source, tmp_path / "two", seed="1")
    assert read_variant(tmp_path / "one") != read_variant(tmp_path / "two")


# The source between plan and write


def change_time(shard: Path) -> None:
    os.utime(shard, ns=(0, shard.stat().st_mtime_ns + 1))


def cut_short(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size - 512)


def write_anew(shard: Path) -> None:
    write_shards(shard.parent, make_rows(30, captions=5), shards=3)


def rewrite_quietly(shard: Path) -> None:
    """Every caption in this shard is another, of the same length; size and time stay."""
    kept = shard.stat()
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"a photo of", b"A PHOTO OF"))
    os.utime(shard, ns=(kept.st_atime_ns, kept.st_mtime_ns))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", [change_time, cut_short, write_anew, rewrite_quietly])
def test_source_that_changed_after_the_plan_is_named(change: Callable[[Path], None], workers: int, source: Path, tmp_path: Path) -> None:
    dataset = open_dataset(source)
    plan, shard = plan_of(dataset, SWAP | {"ratio": "1"}), source / "shard-00001.tar"
    change(shard)
    said = problem_of(DatasetError, lambda: write_variant(dataset, plan, tmp_path / "out", workers=workers))
    named = source / "shard-00000.tar" if change is write_anew else shard
    assert said.startswith(str(named))
    assert "the source has changed: " in said or "no tar header" in said or "end marker" in said
    assert not (tmp_path / "out" / "shard-00001.tar").exists()
    assert not (tmp_path / "out" / HIDDEN / "manifest.json").exists()


def test_shard_that_vanished_after_the_plan_is_named(source: Path, tmp_path: Path) -> None:
    dataset = open_dataset(source)
    plan = plan_of(dataset)
    (source / "shard-00001.tar").unlink()
    said = problem_of(DatasetError, lambda: write_variant(dataset, plan, tmp_path / "out"))
    assert said.startswith(f"{source / 'shard-00001.tar'}: ")
    assert "No such file" in said
    assert "cannot be written" not in said


def test_plan_of_another_source_is_refused(source: Path, tmp_path: Path) -> None:
    other = open_dataset(write_shards(tmp_path / "other", make_rows(29), shards=3))
    said = problem_of(DatasetError, lambda: write_variant(open_dataset(source), plan_of(other), tmp_path / "out"))
    assert said.startswith(f"{source}: fingerprint ")
    assert said.endswith("make the plan of this source")
    assert not (tmp_path / "out").exists()


def test_edit_of_a_row_that_is_not_there_is_refused(source: Path, tmp_path: Path) -> None:
    dataset = open_dataset(source)
    plan = plan_of(dataset)
    rows = plan.edits.to_pylist()
    rows[-1]["key"] = "zzz"
    edits = plan.edits.from_pylist(rows, schema=plan.edits.schema)
    assert digest_edits(edits) != digest_edits(plan.edits)
    forged = Plan(plan.recipe, plan.source, edits, plan.stages)
    said = problem_of(IntegrityError, lambda: write_variant(dataset, forged, tmp_path / "out"))
    assert said == "plan: 1 edits of rows that the source does not have; name the source it was made of"
    assert list((tmp_path / "out").glob("*.tar")) == []


def test_edit_of_a_value_that_is_not_there_is_refused(source: Path, tmp_path: Path) -> None:
    dataset = open_dataset(source)
    plan = plan_of(dataset)
    rows = plan.edits.to_pylist()
    rows[0]["old"] = "something else"
    forged = Plan(plan.recipe, plan.source, plan.edits.from_pylist(rows, schema=plan.edits.schema), plan.stages)
    said = problem_of(DatasetError, lambda: write_variant(dataset, forged, tmp_path / "out"))
    assert said.startswith(f"{source / rows[0]['shard']}, {rows[0]['key']}: found the caption ")
    assert "'something else'" in said


# What is written


@pytest.mark.parametrize("form", ["webdataset", "overlay"])
def test_workers_make_no_difference(form: write.Format, tmp_path: Path) -> None:
    dataset = open_dataset(published_source(tmp_path / "source"))
    plan = make_plan(chain_recipe(tmp_path), dataset.index())
    for workers in (1, 2, 3):
        write_variant(dataset, plan, tmp_path / f"{workers}", form, workers=workers)
        assert_whole(tmp_path / f"{workers}", tmp_path / "1")


def test_progress_is_shown_shard_by_shard(source: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def watch(items: Iterator[Any], total: int) -> Iterator[Any]:
        assert total == 3
        for item in items:
            seen.append(item.shard.name)
            yield item

    make(source, tmp_path / "out", watch=watch)
    assert seen == [f"shard-{number:05d}.tar" for number in range(3)]


def test_files_beside_the_shards_are_carried_or_not(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    for form in ("webdataset", "overlay"):
        manifest = make(source, tmp_path / form, form=form)
        listed = {record.path for record in manifest.files} | {shard.name for shard in manifest.shards}
        found = {path.relative_to(tmp_path / form).as_posix() for path in (tmp_path / form).rglob("*") if path.is_file()}
        assert found == listed | {f"{HIDDEN}/manifest.json", f"{HIDDEN}/manifest.sha256"}
        assert "LICENSE" in listed
        assert "notes.txt" not in listed
        assert (tmp_path / form / "00001_stats.json").read_bytes() == (source / "00001_stats.json").read_bytes()
        assert ("00001.parquet" in listed) == ("00001.tar" in listed) == (form == "webdataset")


def test_one_shard_or_a_pattern_is_a_source(source: Path, tmp_path: Path) -> None:
    for number, path in enumerate((source / "shard-00001.tar", source / "shard-0000[12].tar")):
        manifest = make(path, tmp_path / f"out-{number}")
        assert [shard.name for shard in manifest.shards] == ["shard-00001.tar", "shard-00002.tar"][: number + 1]
        assert verify(tmp_path / f"out-{number}", source=path, deep=True).problems == ()


def test_source_is_not_changed(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    before = read_tree(source)
    stock = {path.name: path.stat().st_mtime_ns for path in source.iterdir()}
    make(source, tmp_path / "out", FLIP, SWAP)
    assert read_tree(source) == before
    assert {path.name: path.stat().st_mtime_ns for path in source.iterdir() if path.name != HIDDEN} == stock


@pytest.mark.parametrize("name", ["with space", "日本語", "a'b\"c", "[x]*?", "-flag", "été{}%s", "e\u0301", "new\nline"])
def test_odd_names_of_folders(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_shards(tmp_path / name / "in", make_rows(10), name="shard é {:02d}.tar"), tmp_path / name / "out"
    assert main(["make", "--source", str(source), "--swap", "1", "--out", str(out), "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["variants"][0]["path"] == str(out)
    assert main(["verify", str(out), "--source", str(source), "--deep", "--workers", "1"]) == 0
    assert main(["restore", str(out), "--out", str(tmp_path / name / "again")]) == 0
    assert read_tree(tmp_path / name / "again") == read_tree(source)
    assert capsys.readouterr().err == ""


def test_folder_whose_name_is_no_utf8_works_or_is_refused_in_one_line(tmp_path: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    source = write_shards(place / "in", make_rows(10))
    status, _, errors = run_command("make", "--source", source, "--swap", "1", "--out", place / "out", "--workers", "1")
    assert status in (0, 2)
    assert "Traceback" not in errors
    assert errors.count("\n") == (1 if status else 0)


def test_read_only_source_is_indexed_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with small_disk(tmp_path / "disk") as disk:
        source = read_only_source(disk, tmp_path)
        with pytest.raises(OSError, match=r"Read-only|denied"):
            (source / "probe").touch()
        make(source, tmp_path / "out")
        (index,) = (tmp_path / "cache" / "corruptkit").rglob("index-*.arrow")
        stock = index.stat()
        assert not (source / HIDDEN).exists()
        assert len(open_dataset(source).index()) == 30
        assert index.stat().st_mtime_ns == stock.st_mtime_ns, "the second time it is read and not made"
        assert verify(tmp_path / "out", source=source, deep=True).problems == ()
    make(write_shards(tmp_path / "plain", make_rows(30), shards=3), tmp_path / "other")
    assert read_tree(tmp_path / "out")["shard-00001.tar"] == read_tree(tmp_path / "other")["shard-00001.tar"]


def read_only_source(disk: Disk | None, tmp_path: Path) -> Path:
    """A folder that nobody can write to: on a disk mounted so, else by its permissions, which root does not heed."""
    if disk is not None and not disk.prefix:
        source = write_shards(disk.path / "source", make_rows(30), shards=3)
        disk.protect()
        return source
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere, and may not mount")
    source = write_shards(tmp_path / "source", make_rows(30), shards=3)
    source.chmod(0o555)
    return source


def test_disk_that_is_too_small_is_refused_first(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage
    monkeypatch.setattr(write.shutil, "disk_usage", lambda path: usage(path)._replace(free=1_000))
    said = problem_of(DatasetError, lambda: make(source, tmp_path / "out"))
    assert said.startswith(f"{tmp_path / 'out'}: 1,000 bytes are free, expected room for ")
    assert list((tmp_path / "out").glob("*.tar")) == []
    monkeypatch.undo()
    make(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("s3://user:hunter2@host/data?token=hunter2#hunter2", "s3://host/data"),
        ("--source=https://hunter2@host:8443/a/b.tar?sig=hunter2", "--source=https://host:8443/a/b.tar"),
        ("hf://datasets/org/name?x=hunter2", "hf://datasets/org/name"),
        ("two s3://a:hunter2@b/c and gs://d/e?hunter2 words", "two s3://b/c and gs://d/e words"),
        ("s3://[hunter2", None),
        ("/data/plain?name=kept", "/data/plain?name=kept"),
    ],
)
def test_secrets_of_urls_do_not_reach_the_manifest(
    word: str, kept: str | None, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/corruptkit", "make", word])
    manifest = make(source, tmp_path / "out")
    assert manifest.circumstance.command[:2] == ("corruptkit", "make")
    if kept is not None:
        assert manifest.circumstance.command[2] == kept
        assert b"hunter2" not in b"".join(read_tree(tmp_path / "out").values())


def test_catalog_s_digest_stands_in_the_circumstance(source: Path, tmp_path: Path) -> None:
    manifest = make(source, tmp_path / "out", catalog_digest="f" * 64)
    assert manifest.circumstance.catalog_digest == "f" * 64
    assert manifest.circumstance.started <= manifest.circumstance.finished
    assert manifest.source.shards[0].sha256 == ""
    again = make(tmp_path / "out", tmp_path / "again", FLIP)
    assert [shard.sha256 for shard in again.source.shards] == [shard.sha256 for shard in manifest.shards]
    assert again.source.variant_id == manifest.variant_id


# No clean condition is left


def conditions_of(source: Path) -> dict[str, tuple[int | None, str | None]]:
    table = open_dataset(source).index().table
    return {row["key"]: (row["label"], row["caption"]) for row in table.select(["key", "label", "caption"]).to_pylist()}


def texts_of(folder: Path) -> dict[str, list[str]]:
    """All that a folder says about each sample outside its images: members, JSON as text and as values, rows of side-cars."""
    found: dict[str, list[str]] = {}
    for _, name, content in read_members(folder):
        if not name.endswith(".jpg"):
            text = content.decode()
            found.setdefault(name.partition(".")[0], []).extend([text, *([repr(json.loads(text))] if name.endswith(".json") else [])])
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found.setdefault(row["key"], []).append(repr(row))
    return found


def spellings(caption: str) -> set[str]:
    return {caption, json.dumps(caption)[1:-1], json.dumps(caption, ensure_ascii=False)[1:-1], repr(caption)[1:-1]}


def test_no_clean_caption_is_left(tmp_path: Path) -> None:
    """Each row's old text, in any spelling, is gone from all that the variant says about the row."""
    source = published_source(tmp_path / "source")
    make(source, tmp_path / "out", SWAP | {"ratio": "0.6"})
    before, after = conditions_of(source), conditions_of(tmp_path / "out")
    clean, left = texts_of(source), texts_of(tmp_path / "out")
    changed = {key for key in before if before[key] != after[key]}
    assert len(changed) == 18
    for key, (_, caption) in before.items():
        assert caption == caption_of(key)
        places = [sum(any(spelt in text for spelt in spellings(caption)) for text in texts[key]) for texts in (clean, left)]
        assert places == [4, 0 if key in changed else 4], key


def test_texts_of_a_variant_hold_each_caption_as_often_as_before(tmp_path: Path) -> None:
    """All in all: the raw bytes of the shards hold a caption in one .txt and one .json, wherever it has moved to."""
    source = published_source(tmp_path / "source")
    make(source, tmp_path / "out", SWAP | {"ratio": "0.6"}, FLIP)
    for folder in (source, tmp_path / "out"):
        raw = b"".join(path.read_bytes() for path in sorted(folder.glob("*.tar")))
        for _, caption in conditions_of(source).values():
            assert raw.count(caption.encode()) == 1
            assert raw.count(json.dumps(caption).encode()) == 1


def test_no_clean_label_is_left(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    make(source, tmp_path / "out", FLIP | {"ratio": "0.6"})
    after = conditions_of(tmp_path / "out")
    assert sum(after[key] != condition for key, condition in conditions_of(source).items()) == 18
    for _, name, content in read_members(tmp_path / "out"):
        key, _, suffix = name.partition(".")
        if suffix in ("cls", "json"):
            assert (int(content) if suffix == "cls" else json.loads(content)["label"]) == after[key][0]
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert {row["key"]: row["label"] for row in rows if row["status"] == "success"} == {key: label for key, (label, _) in after.items()}


def test_failed_rows_of_a_side_car_stay_as_they_are(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    make(source, tmp_path / "out", SWAP | {"ratio": "1"}, FLIP | {"ratio": "1"})
    for path in sorted(source.glob("*.parquet")):
        before, after = pq.read_table(path), pq.read_table(tmp_path / "out" / path.name)
        assert after.schema.equals(before.schema, check_metadata=True)
        assert not after.equals(before)
        for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
            kept = old if old["status"] != "success" else {name: old[name] for name in old if name not in ("caption", "label")}
            assert kept.items() <= new.items()


def test_caption_that_a_json_alone_tells_otherwise_is_replaced(tmp_path: Path) -> None:
    """Another clean text of the same image in the .json must not remain beside the new .txt."""
    rows = [Row(f"{i}", None, f"text {i}") for i in range(6)]
    source = write_shards(tmp_path / "source", rows, members=("txt",), shards=1)
    with tarfile.open(source / "shard-00000.tar", "w") as tar:
        for i in range(6):
            for suffix, content in (("txt", f"text {i}"), ("json", f'{{"caption": "other words {i}", "alt": {{"caption": "deep {i}"}}}}')):
                info = tarfile.TarInfo(f"{i}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content.encode()))
    make(source, tmp_path / "out", SWAP | {"ratio": "1"})
    texts = {name: content.decode() for _, name, content in read_members(tmp_path / "out")}
    for i in range(6):
        assert texts[f"{i}.txt"] != f"text {i}"
        assert json.loads(texts[f"{i}.json"]) == {"caption": texts[f"{i}.txt"], "alt": {"caption": f"deep {i}"}}
