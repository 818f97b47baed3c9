"""What the commands that only read do and say: verify, restore, diff, show and index."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit.formats.overlay import read_edits
from tests.corruptkit.saying import FLIP, SWAP, Run, write_catalog
from tests.corruptkit.shards import Row, make_rows, read_tree, write_shards

# verify


def test_verify_lists_what_it_checked(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    said = run("verify", "v")
    variant_id = ck.read_manifest(here / "v").variant_id
    assert (said.status, said.err) == (0, "")
    *checks, verdict = said.out.splitlines()
    assert all(line.startswith("ok: ") for line in checks)
    assert len(checks) == 4
    assert verdict == f"v: verified, variant_id {variant_id}"
    with_source = run("verify", "v", "--source", "src", "--deep", "--json")
    assert with_source.data["verified"] is True
    assert len(with_source.data["checks"]) == 6
    assert with_source.data["variants"][0]["variant_id"] == variant_id


def test_verify_says_no_and_what_is_wrong(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    shard = here / "v" / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    said = run("verify", "v", "--json")
    assert (said.status, said.err) == (1, "")
    assert said.data["verified"] is False
    (problem,) = said.data["problems"]
    assert problem["file"] == "v/shard-00001.tar"
    assert problem["do"]
    lines = run("verify", "v").out.splitlines()
    assert lines[-2].startswith("problem: v/shard-00001.tar: SHA-256 ")
    assert lines[-1] == "v: NOT verified"


def test_verify_says_no_of_a_manifest_that_was_changed(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    manifest = here / "v" / ".corruptkit" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 40', b'"rows": 41', 1))
    said = run("verify", "v", "--json")
    assert (said.status, said.data["variants"], said.data["verified"]) == (1, [], False)
    assert said.data["problems"][0]["file"] == "v/.corruptkit/manifest.json"
    assert run("show", "v").status == 2


def test_verify_against_another_source_says_no(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    write_shards(here / "data" / "other", make_rows(39))
    said = run("verify", "v", "--source", "data/other")
    assert said.status == 1
    assert "problem: data/other, v: fingerprint" in said.out


# restore


def test_restore_gives_the_source_back(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    said = run("restore", "v", "--out", "again")
    assert (said.status, said.out, said.err) == (0, "again: the source of v, byte for byte\n", "")
    assert {n: d for n, d in read_tree(here / "again").items() if n.endswith(".tar")} == {
        n: d for n, d in read_tree(here / "src").items() if n.endswith(".tar")
    }
    data = run("restore", "v", "--out", "once-more", "--json").data
    assert data["path"] == "once-more"
    assert data["variants"][0]["path"] == "v"


def test_restore_of_an_overlay_asks_for_a_source_that_moved(here: Path, run: Run) -> None:
    run("make", *SWAP, "--format", "overlay", "--out", "v")
    (here / "src").rename(here / "moved")
    lost = run("restore", "v", "--out", "again")
    assert lost.status == 2
    assert "state --source PATH" in lost.err
    assert run("verify", "v").status in (1, 2)
    assert run("restore", "v", "--out", "again", "--source", "moved").status == 0
    assert (here / "again" / "shard-00000.tar").read_bytes() == (here / "moved" / "shard-00000.tar").read_bytes()
    assert run("verify", "v", "--source", "moved").status == 0


# diff


def test_diff_lists_rows_and_counts_them(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    said = run("diff", "src", "v", "--json")
    assert (said.status, said.err) == (1, "")
    plan = read_edits(here / "v" / ".corruptkit" / "plan.parquet").to_pylist()
    expected = [{"key": e["key"], "field": "caption", "first": e["old"], "second": e["new"]} for e in plan]
    assert said.data["changed"] == expected
    assert (said.data["only_first"], said.data["only_second"]) == ([], [])
    assert "recipe" in [name for name, _, _ in said.data["identity"]]
    lines = run("diff", "src", "v", "--limit", "1000").out.splitlines()
    assert lines[-1] == "20 conditions differ"
    shown = [line for line in lines if ": caption " in line]
    assert shown == [f"{e['key']}: caption {e['first']!r} | {e['second']!r}" for e in expected]


def test_diff_prints_as_many_as_asked_for(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    lines = run("diff", "src", "v", "--limit", "3").out.splitlines()
    rows = [line for line in lines if ": caption " in line]
    assert len(rows) == 3, "what differs is the rows; a limit is not used up by digests"
    assert lines[-2].startswith("... ")
    assert lines[-2].endswith(" more (--limit)")
    assert here.is_dir()


def test_diff_names_rows_that_one_lacks(here: Path, run: Run) -> None:
    write_shards(here / "a", make_rows(4))
    write_shards(here / "b", [*make_rows(5)[1:4], Row("new", 1, "x")])
    said = run("diff", "a", "b", "--json")
    assert said.status == 1
    assert (said.data["only_first"], said.data["only_second"], said.data["changed"]) == (["000000000"], ["new"], [])
    lines = run("diff", "a", "b").out.splitlines()
    assert "000000000: only in a" in lines
    assert "new: only in b" in lines
    assert lines[-1] == "2 conditions differ"


def test_diff_tells_a_missing_condition_from_an_empty_one(here: Path, run: Run) -> None:
    write_shards(here / "a", [Row("1", None, ""), Row("2", 0, "x")], members=("png", "txt", "cls"))
    write_shards(here / "b", [Row("1", 3, None), Row("2", 0, "x")], members=("png", "txt", "cls"))
    changed = run("diff", "a", "b", "--json").data["changed"]
    assert [(row["key"], row["field"]) for row in changed] == [("1", "caption"), ("1", "label")]
    assert changed[0]["first"] != changed[0]["second"]


def test_diff_of_equals_is_quiet(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    run("make", *SWAP, "--out", "w", "--format", "overlay")
    for first, second in (("src", "src"), ("v", "w"), ("v", "v")):
        said = run("diff", first, second)
        assert (said.status, said.out) == (0, "no condition differs\n")
    assert run("diff", "v", "w", "--json").data["identity"] == []
    assert here.is_dir()


# show


def test_show_is_the_manifest_for_people_and_programs(here: Path, run: Run) -> None:
    run("make", *FLIP, "--mode", "prior", "--seed", "5", "--out", "v")
    said = run("show", "v")
    manifest = ck.read_manifest(here / "v")
    assert (said.status, said.err) == (0, "")
    for word in (
        manifest.variant_id,
        "webdataset",
        "src",
        "train",
        "40 rows",
        "K = 10",
        "seed 5",
        "flip 0.5",
        "mode prior",
        "20 of 40",
        str(here / "src"),
    ):
        assert word in said.out
    data = run("show", "v", "--json").data
    assert data["manifest"] == json.loads((here / "v" / ".corruptkit" / "manifest.json").read_bytes())
    assert data["edits"] == []


def test_show_prints_edits_in_the_order_of_their_rank(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    plan = sorted(read_edits(here / "v" / ".corruptkit" / "plan.parquet").to_pylist(), key=lambda e: (e["stage"], e["rank"]))
    lines = run("show", "v", "--edits", "4").out.splitlines()
    assert lines[-4:] == [f"  {e['key']}  caption: {e['old']}  ->  {e['new']}" for e in plan[:4]]
    assert run("show", "v", "--edits", "4", "--json").data["edits"] == plan[:4]
    assert len(run("show", "v", "--edits", "999", "--json").data["edits"]) == 20
    assert "->" not in run("show", "v").out


@pytest.mark.usefixtures("here")
def test_show_tells_what_the_plan_file_says_and_with_counts_what_the_source_says(run: Run) -> None:
    run("make", *FLIP, "--out", "v")
    alone, said = run("show", "v"), run("show", "v", "--counts")
    for words in ("stage 0   flip uniform, ratio 0.5 of all 40 rows", "selected  20: ratio 0.500000000", "old class -> new class"):
        assert words in alone.out
        assert words in said.out
    for words in ("classes   each hit by its share", "before     after  class"):
        assert words not in alone.out
        assert words in said.out
    account = run("show", "v", "--counts", "--json").data["account"]
    assert account == ck.describe_variant("v").model_dump(mode="json")
    assert run("show", "v", "--json").data["account"]["classes"] is None
    assert run("plan", *FLIP, "--json").data["accounts"] == [account]
    assert said.out.splitlines()[7:] == run("plan", *FLIP).out.splitlines()[2:]


def test_show_counts_of_an_overlay_take_its_source_where_it_lies(here: Path, run: Run) -> None:
    run("make", *FLIP, "--format", "overlay", "--out", "v")
    (here / "src").rename(here / "moved")
    assert run("show", "v").status == 0
    missing = run("show", "v", "--counts")
    assert (missing.status, missing.out) == (2, "")
    assert "state --source PATH" in missing.err
    assert "before     after  class" in run("show", "v", "--source", "moved").out
    write_shards(here / "other", make_rows(41))
    other = run("show", "v", "--source", "other")
    assert (other.status, other.out) == (2, "")
    assert "fingerprint" in other.err


def test_show_of_a_recipe_with_content_is_readable(here: Path, run: Run) -> None:
    (here / "groups.json").write_text("[[0, 1]]", encoding="utf-8")
    run("make", *FLIP, "--mode", "within", "--groups", "groups.json", "--out", "v")
    assert re.search(r"flip 0\.5 \(.*mode within.*groups [0-9a-f]{64}|groups [0-9a-f]{64}.*mode within", run("show", "v").out)
    assert all(len(line) < 300 for line in run("show", "v").out.splitlines())


# index


def test_index_says_what_a_source_holds(here: Path, run: Run) -> None:
    said = run("index", "src", "--json")
    fingerprint = ck.open_dataset("src").index().meta.fingerprint
    expected = {
        "rows": 40,
        "shards": 2,
        "excluded": 0,
        "split": "train",
        "key_rule": "sample",
        "labels": 40,
        "captions": 40,
        "classes": 10,
        "inferred": True,
        "fingerprint": fingerprint,
    }
    assert said.data == {"command": "index", "variants": [], "problems": [], "index": expected}
    assert (here / "src" / ".corruptkit").is_dir()
    lines = run("index", "src", "--classes", "12").out.splitlines()
    assert lines[0] == "src: 40 rows in 2 shards"
    assert [line.split() for line in lines[1:]] == [
        ["excluded", "0"],
        ["split", "train"],
        ["key_rule", "sample"],
        ["labels", "40"],
        ["captions", "40"],
        ["classes", "12"],
        ["inferred", "False"],
        ["fingerprint", fingerprint],
    ]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (("--key", "ordinal"), {"key_rule": "ordinal"}),
        (("--split", "train"), {"split": "train"}),
        (("--label-column", "width"), {"labels": 40, "classes": 65}),
        (("--caption-column", "key"), {"captions": 40}),
        (("--workers", "2"), {"rows": 40}),
    ],
)
def test_index_reads_as_it_is_told(here: Path, run: Run, flags: tuple[str, ...], found: dict[str, object]) -> None:
    assert here.is_dir()
    assert found.items() <= run("index", "src", *flags, "--json").data["index"].items()


def test_rows_must_have_what_a_flag_or_the_catalog_names(here: Path, run: Run) -> None:
    said = run("index", "src", "--caption-column", "nothing")
    assert (said.status, "no caption, expected a caption in every row" in said.err) == (2, True)
    catalog = write_catalog(here / "catalog", rule="stem")
    write_shards(here / "data" / "secrets", [Row("d/0", 0)], shards=1)
    said = run("make", "--dataset", "secrets", "--flip", "0.5", "--catalog", catalog)
    assert (said.status, "no caption, expected a caption in every row" in said.err) == (2, True)


def test_index_of_a_variant_is_that_of_what_it_reads(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "v")
    run("make", *SWAP, "--out", "w", "--format", "overlay")
    marks = [run("index", name, "--json").data["index"]["fingerprint"] for name in ("src", "v", "w")]
    assert marks[0] != marks[1] == marks[2]
    assert here.is_dir()
