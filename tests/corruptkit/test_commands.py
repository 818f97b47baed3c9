"""What the commands that write do and say: for people in lines, for programs in the fields of the contract."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import corruptkit as ck
from corruptkit import commands
from corruptkit.catalog import load_catalog
from corruptkit.formats.overlay import read_edits
from tests.corruptkit.saying import FLIP, SWAP, Run, new_folders, write_catalog
from tests.corruptkit.shards import Row, make_rows, read_tree, write_shards

# make


def test_make_writes_a_variant_and_says_so(here: Path, run: Run) -> None:
    said = run("make", "--source", "src", "--swap", "0.25")
    assert (said.status, said.err) == (0, "")
    manifest = ck.read_manifest(here / "src-swap-0.25-s0")
    assert said.out.splitlines() == [
        f"src-swap-0.25-s0  (webdataset, variant_id {manifest.variant_id})",
        "  10 of 40 rows changed, effective ratio 0.250000000 (swap 10 of 40 eligible)",
        "check it: corruptkit verify src-swap-0.25-s0",
    ]


def test_make_tells_programs_the_same(here: Path, run: Run) -> None:
    said = run("make", "--source", "src", "--flip", "0.25", "--json")
    assert (said.status, said.err) == (0, "")
    manifest = ck.read_manifest(here / "src-flip-0.25-s0")
    assert said.data == {
        "command": "make",
        "variants": [
            {
                "variant_id": manifest.variant_id,
                "path": "src-flip-0.25-s0",
                "format": "webdataset",
                "counts": {
                    "rows": 40,
                    "excluded": 0,
                    "stages": [{"kind": "flip", "eligible": 40, "selected": 10, "edits": 10}],
                    "changed": 10,
                    "effective_ratio": "0.250000000",
                },
            }
        ],
        "problems": [],
    }


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (SWAP, "src-swap-0.5-s0"),
        (FLIP, "src-flip-0.5-s0"),
        ((*FLIP, "--mode", "uniform"), "src-flip-0.5-s0"),
        ((*FLIP, "--mode", "prior"), "src-flip-prior-0.5-s0"),
        ((*FLIP, "--mode", "within", "--groups", "groups.json"), "src-flip-within-0.5-s0"),
        ((*FLIP, "--mode", "matrix", "--matrix", "matrix.csv"), "src-flip-matrix-0.5-s0"),
        ((*SWAP, "--mode", "any"), "src-swap-0.5-s0"),
        ((*SWAP, "--of", "eligible"), "src-swap-0.5-s0"),
        ((*SWAP, "--seed", "007"), "src-swap-0.5-s7"),
        ((*SWAP, "--seed", "18446744073709551616"), "src-swap-0.5-s18446744073709551616"),
        ((*SWAP, "--format", "overlay"), "src-swap-0.5-s0.overlay"),
        ((*SWAP, "--format", "webdataset"), "src-swap-0.5-s0"),
        (("--source", "src", "--swap", ".50"), "src-swap-0.5-s0"),
        (("--source", "src", "--swap", "1.0"), "src-swap-1-s0"),
        (("--source", "src", "--swap", "5e-1"), "src-swap-0.5-s0"),
        (("--source", "src", "--swap", "0"), "src-swap-0-s0"),
        (("--source", "src/", "--swap", "0.5"), "src-swap-0.5-s0"),
        (("--source", "../work/src", "--swap", "0.5"), "src-swap-0.5-s0"),
        (("--source", "src/shard-00000.tar", "--swap", "0.5"), "shard-00000-swap-0.5-s0"),
        (("--source", "src/*.tar", "--swap", "0.5"), "src-swap-0.5-s0"),
        (("--source", "src", "--recipe", "my-recipe.toml"), "my-recipe"),
        (("--source", "src", "--recipe", "my-recipe.toml", "--format", "overlay"), "my-recipe.overlay"),
        (("--source", "src", "--variant", "openmoji/flip-prior-0.05-s0"), "openmoji-flip-prior-0.05-s0"),
        (("--dataset", "secrets", "--swap", "0.5", "--catalog", "catalog"), "secrets-swap-0.5-s0"),
        (("--variant", "secrets/flip-pair-0.25-s7", "--catalog", "catalog"), "secrets-flip-pair-0.25-s7"),
        (("--variant", "secrets/flip-pair-0.25-s7", "--catalog", "catalog", "--format", "overlay"), "secrets-flip-pair-0.25-s7.overlay"),
    ],
)
def test_default_name_says_what_it_is(here: Path, run: Run, words: tuple[str, ...], name: str) -> None:
    write_catalog(here / "catalog")
    write_shards(here / "data" / "secrets", make_rows(8))
    (here / "src" / "note").touch()
    given = {
        "my-recipe.toml": 'seed = 3\n[[chain]]\nkind = "swap"\nratio = "0.5"\n',
        "groups.json": "[[0, 1, 2], [3, 4, 5, 6, 7, 8, 9]]",
        "matrix.csv": "\n".join(",".join("1" * 10) for _ in range(10)),
    }
    for file, text in given.items():
        (here / "src" / file).write_text(text, encoding="utf-8")
    said = run("make", *(f"src/{word}" if word in given else word for word in words))
    assert (said.status, said.err) == (0, "")
    assert new_folders(here) == [name]
    assert ck.verify(here / name).problems == ()
    planned = run(
        "plan", *(f"src/{word}" if word in given else word for word in words if word not in ("--format", "overlay", "webdataset"))
    )
    assert planned.status == 0
    assert new_folders(here)[1:] == [f"{name.removesuffix('.overlay')}.plan.parquet"]


def test_lists_make_one_variant_each(here: Path, run: Run) -> None:
    said = run("make", "--source", "src", "--flip", "0.1, 0.2,0.30", "--seed", "0,1", "--mode", "pair", "--format", "overlay", "--json")
    names = [f"src-flip-pair-{ratio}-s{seed}.overlay" for ratio, seed in itertools.product(("0.1", "0.2", "0.3"), "01")]
    assert [variant["path"] for variant in said.data["variants"]] == names
    assert new_folders(here) == sorted(names)
    assert [variant["counts"]["changed"] for variant in said.data["variants"]] == [4, 4, 8, 8, 12, 12]
    assert len({variant["variant_id"] for variant in said.data["variants"]}) == 6


def test_lists_go_into_the_folder_that_out_names(here: Path, run: Run) -> None:
    said = run("make", "--source", "src", "--swap", "0.1,0.2", "--out", "ladder/of/mine")
    assert said.status == 0
    assert sorted(path.name for path in (here / "ladder/of/mine").iterdir()) == ["src-swap-0.1-s0", "src-swap-0.2-s0"]
    assert said.out.splitlines()[-1] == "check it: corruptkit verify ladder/of/mine/src-swap-0.2-s0"
    assert run("make", "--source", "src", "--swap", "0.3", "--out", "one/alone").status == 0
    assert (here / "one/alone/.corruptkit/manifest.json").is_file()


def test_nothing_is_made_where_one_of_a_list_is_wrong(here: Path, run: Run) -> None:
    assert run("make", "--source", "src", "--swap", "0.1,1.1").status == 2
    assert new_folders(here) == []


@pytest.mark.parametrize(("form", "expected"), [("webdataset", "webdataset"), ("overlay", "overlay")])
def test_format_is_the_sources_own(here: Path, run: Run, form: str, expected: str) -> None:
    run("make", *SWAP, "--format", form, "--out", "first")
    said = run("make", "--source", "first", "--flip", "0.5", "--json")
    assert said.data["variants"][0]["format"] == expected
    assert new_folders(here) == ["first", "first-flip-0.5-s0" + (".overlay" if form == "overlay" else "")]


def test_library_and_command_make_the_same(here: Path, run: Run) -> None:
    run("make", *SWAP, "--out", "by-command")
    source = ck.open_dataset("src")
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.5")]), source.index())
    ck.write_variant(source, plan, "by-library")
    skipped = (".corruptkit/manifest.json", ".corruptkit/manifest.sha256")
    trees = [{name: data for name, data in read_tree(here / name).items() if name not in skipped} for name in ("by-command", "by-library")]
    assert trees[0] == trees[1]
    assert ck.read_manifest(here / "by-command").identity == ck.read_manifest(here / "by-library").identity


def test_recipe_file_is_followed(here: Path, run: Run) -> None:
    (here / "recipes").mkdir()
    (here / "recipes" / "groups.json").write_text("[[0, 1], [2, 3, 4]]", encoding="utf-8")
    within = 'kind = "flip"\nmode = "within"\nratio = 0.25\ngroups = "groups.json"\n'
    text = f'seed = 5\n[[chain]]\n{within}[[chain]]\nkind = "swap"\nratio = "0.1"\n'
    (here / "recipes" / "chain.toml").write_text(text, encoding="utf-8")
    said = run("make", "--source", "src", "--recipe", "recipes/chain.toml", "--json")
    assert [stage["kind"] for stage in said.data["variants"][0]["counts"]["stages"]] == ["flip", "swap"]
    identity = ck.read_manifest(here / "chain").identity["recipe"]
    assert (identity["seed"], [stage["ratio"] for stage in identity["chain"]]) == ("5", ["0.25", "0.1"])


def test_manifest_tells_how_it_was_made(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["make", *SWAP, "--seed", "3"]
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/corruptkit", *words])
    run(*words)
    made = ck.read_manifest(here / "src-swap-0.5-s3").circumstance
    assert made.command == ("corruptkit", *words)
    assert made.catalog_digest == load_catalog().digest
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made.finished)


def test_shortfall_is_a_warning_or_strictly_an_error(here: Path, run: Run) -> None:
    write_shards(here / "data" / "same", [Row(f"{n}", n % 3 if n < 4 else None, "same") for n in range(10)])
    said = run("make", "--source", "data/same", "--flip", "0.9")
    assert said.status == 0
    assert said.err == "warning: recipe, chain.0: only 4 rows are eligible, expected 9 to change; lower the ratio or use --of eligible\n"
    assert "4 of 10 rows changed, effective ratio 0.400000000 (flip 4 of 4 eligible)" in said.out
    assert run("make", "--source", "data/same", "--flip", "0.9", "--of", "eligible", "--strict", "--out", "exact").err == ""
    strict = run("make", "--source", "data/same", "--flip", "0.9", "--strict", "--out", "never")
    assert (strict.status, (here / "never").exists()) == (2, False)
    with_json = run("make", "--source", "data/same", "--flip", "0.9", "--json")
    assert with_json.data["variants"][0]["counts"]["changed"] == 4
    assert with_json.err.startswith("warning: ")


def test_key_that_tells_the_class_is_warned_of(here: Path, run: Run) -> None:
    write_shards(here / "data" / "imagenet", [Row(f"n0144076{n}/n0144076{n}_1", n) for n in range(4)])
    flipped = run("make", "--source", "data/imagenet", "--flip", "0.5")
    assert "begins with a WordNet id, which tells the true class to whoever reads names" in flipped.err
    assert flipped.status == 0
    assert run("make", *FLIP).err == ""


# plan


def test_plan_writes_the_edits_and_nothing_else(here: Path, run: Run) -> None:
    said = run("plan", *SWAP, "--json")
    assert said.status == 0
    (variant,) = said.data["variants"]
    assert (variant["path"], variant["format"]) == ("src-swap-0.5-s0.plan.parquet", "plan")
    assert new_folders(here) == ["src-swap-0.5-s0.plan.parquet"]
    run("make", *SWAP)
    made = here / "src-swap-0.5-s0" / ".corruptkit" / "plan.parquet"
    assert made.read_bytes() == (here / "src-swap-0.5-s0.plan.parquet").read_bytes()
    assert variant["variant_id"] == ck.read_manifest(here / "src-swap-0.5-s0").variant_id
    lines = run("plan", *SWAP, "--out", "here/plan.parquet").out.splitlines()
    assert lines[0] == f"here/plan.parquet  (variant_id {variant['variant_id']})"
    assert len(read_edits(here / "here" / "plan.parquet")) == 20


def test_plans_of_a_list_go_into_a_folder(here: Path, run: Run) -> None:
    said = run("plan", "--source", "src", "--swap", "0.1,0.2", "--out", "plans", "--json")
    assert [variant["path"] for variant in said.data["variants"]] == [f"plans/src-swap-0.{n}-s0.plan.parquet" for n in (1, 2)]
    assert [pq.read_metadata(here / v["path"]).num_rows for v in said.data["variants"]] == [4, 8]


def test_workers_are_one_a_core_unless_stated() -> None:
    from argparse import Namespace

    assert commands._workers(Namespace(workers=None)) == commands._workers(Namespace(workers=0)) == len(os.sched_getaffinity(0))
    assert commands._workers(Namespace(workers=3)) == 3


def test_two_workers_make_the_same_files(here: Path, run: Run) -> None:
    for number in ("1", "2"):
        assert run("make", *SWAP, "--workers", number, "--out", number).status == 0
    skipped = (".corruptkit/manifest.json", ".corruptkit/manifest.sha256")
    alone, together = ({n: d for n, d in read_tree(here / number).items() if n not in skipped} for number in ("1", "2"))
    assert alone == together
