"""What each command does and says: for people in lines, for programs in the fields of the contract."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

import corruptkit as ck
from corruptkit import commands
from corruptkit.catalog import load_catalog
from corruptkit.cli import main
from corruptkit.corruptions import KINDS
from corruptkit.fetching import folder as fetched_folder
from corruptkit.fetching import openmoji as fetcher
from corruptkit.formats.overlay import read_edits
from tests.corruptkit.shards import Row, make_rows, read_tree, write_shards

CATALOG = """
title = "{title}"
home = "https://example.org/"
license = "not ours to give"
license_url = "https://example.org/license"
attribution = "their authors"
terms = "sign the form"
key_rule = "{rule}"
fields = ["label", "caption"]
classes = 20
get = "huggingface-cli download example/{name} --local-dir data/{name}"
"""
GRID = """
source = "{name}"
[[ladder]]
kind = "flip"
mode = "pair"
ratios = ["0.25"]
seeds = [7]
"""


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on standard output, checked for what every command promises."""
        assert self.out.count("\n") == 1
        data: dict[str, Any] = json.loads(self.out)
        assert list(data)[:3] == ["command", "variants", "problems"]
        assert all(set(variant) == {"variant_id", "path", "format", "counts"} for variant in data["variants"])
        assert all(set(problem) == {"file", "key", "found", "expected", "do"} for problem in data["problems"])
        return data


Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, with one worker unless it says otherwise."""
    monkeypatch.setattr(commands, "_workers", lambda args: args.workers or 1)

    def run_words(*words: object) -> Said:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Said(status, *capsys.readouterr())

    return run_words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the source `src`: forty rows of ten classes in two shards."""
    for name in ("CORRUPTKIT_DATA", "CORRUPTKIT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_shards(Path("src"), make_rows(40))
    return tmp_path / "work"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMoji is forty emoji in four shards, so that fetching takes no time."""
    choose = fetcher.choose_emoji
    monkeypatch.setattr(fetcher, "choose_emoji", lambda packages: (choose(packages)[0][::99], {}))
    monkeypatch.setattr(fetched_folder, "SHARD_ROWS", 10)


def write_catalog(folder: Path, name: str = "secrets", rule: str = "sample") -> Path:
    """A private catalog of one data set that nobody may simply fetch, and one variant of it."""
    for kind, text in (("sources", CATALOG), ("variants", GRID)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / f"{name}.toml").write_text(text.format(title="Secrets", name=name, rule=rule), encoding="utf-8")
    return folder


def new_folders(here: Path) -> list[str]:
    return sorted(path.name for path in here.iterdir() if path.name not in ("src", "data", "catalog"))


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


SWAP = ("--source", "src", "--swap", "0.5")
FLIP = ("--source", "src", "--flip", "0.5")


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


# --dataset: where a data set of the catalog is looked for


@pytest.mark.usefixtures("few")
def test_data_set_is_fetched_where_it_is_missing(here: Path, run: Run) -> None:
    said = run("make", "--dataset", "openmoji", "--swap", "0.5")
    assert said.status == 0
    first, *_ = said.err.splitlines()
    assert first.startswith("openmoji is not at data/openmoji: fetching it (CC BY-SA 4.0; All emojis designed by OpenMoji")
    assert (here / "data" / "openmoji" / "LICENSE.txt").is_file()
    assert (here / "openmoji-swap-0.5-s0" / "LICENSE.txt").is_file()
    again = run("make", "--dataset", "openmoji", "--swap", "0.5")
    assert again.err == ""
    assert again.out == said.out


@pytest.mark.usefixtures("few")
def test_data_set_is_fetched_into_the_folder_of_the_environment(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRUPTKIT_DATA", str(here / "elsewhere"))
    said = run("make", "--dataset", "openmoji", "--swap", "0.5", "--json")
    assert said.data["variants"][0]["counts"]["rows"] == 40
    assert (here / "elsewhere" / "openmoji" / ".corruptkit" / "fetched.json").is_file()
    assert not (here / "data").exists()
    monkeypatch.setenv("CORRUPTKIT_DATA", str(here / "empty"))
    (here / "data").mkdir()
    (here / "elsewhere" / "openmoji").rename(here / "data" / "openmoji")
    assert run("make", "--dataset", "openmoji", "--swap", "0.5").err == "", "./data is looked at next"


def test_data_set_of_the_environment_is_used_as_it_is(here: Path, run: Run, openmoji: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRUPTKIT_DATA", str(openmoji.parent))
    said = run("make", "--dataset", "openmoji", "--swap", "0.05", "--format", "overlay", "--json")
    assert said.err == ""
    (variant,) = said.data["variants"]
    assert (variant["counts"]["rows"], variant["counts"]["changed"], variant["path"]) == (3953, 198, "openmoji-swap-0.05-s0.overlay")
    source = ck.read_manifest(here / variant["path"]).identity["source"]
    assert (source["key_rule"], source["classes"], source["split"]) == ("sample", 10, "train")
    by_variant = run("make", "--variant", "openmoji/swap-0.05-s0", "--format", "overlay", "--json")
    assert by_variant.data["variants"] == said.data["variants"]


def test_data_set_that_needs_consent_names_the_command(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalog(here / "catalog")
    get = "get it with: huggingface-cli download example/secrets --local-dir data/secrets"
    asked = run("make", "--dataset", "secrets", "--swap", "0.5", "--catalog", "catalog")
    assert (asked.status, asked.out) == (2, "")
    assert asked.err == f"error: data/secrets: secrets is not there, expected the data set (sign the form); {get}\n"
    monkeypatch.setenv("CORRUPTKIT_CATALOG", str(here / "catalog"))
    by_environment = run("make", "--variant", "secrets/flip-pair-0.25-s7")
    assert (by_environment.status, by_environment.err) == (2, asked.err)
    fetched = run("fetch", "secrets")
    assert fetched.status == 2
    assert fetched.err.endswith(f"secrets cannot be fetched by corruptkit; {get}\n")
    assert new_folders(here) == []


def test_private_data_set_is_read_as_its_entry_says(here: Path, run: Run) -> None:
    """Key rule and classes come from the catalog; flags go before it."""
    catalog = write_catalog(here / "catalog", rule="stem")
    write_shards(here / "data" / "secrets", [Row(f"d{n}/{n}", n, "a cat") for n in range(4)])
    words = ("make", "--dataset", "secrets", "--flip", "0.5", "--catalog", catalog)
    run(*words, "--out", "v")
    source = ck.read_manifest(here / "v").identity["source"]
    assert (source["key_rule"], source["classes"]) == ("stem", 20)
    run(*words, "--out", "w", "--key", "sample", "--classes", "4")
    source = ck.read_manifest(here / "w").identity["source"]
    assert (source["key_rule"], source["classes"]) == ("sample", 4)
    assert ck.read_manifest(here / "v").circumstance.catalog_digest == load_catalog(catalog).digest


def test_variant_takes_another_source_where_one_is_named(here: Path, run: Run) -> None:
    catalog = write_catalog(here / "catalog")
    run("make", "--variant", "secrets/flip-pair-0.25-s7", "--source", "src", "--catalog", catalog)
    manifest = ck.read_manifest(here / "secrets-flip-pair-0.25-s7")
    assert (manifest.source.name, manifest.identity["recipe"]["seed"]) == ("src", "7")
    assert manifest.identity["recipe"]["chain"][0]["mode"] == "pair"


def test_pattern_makes_each_variant_that_it_matches(here: Path, run: Run) -> None:
    """A private ladder of two kinds; the folders are named as those of flags are."""
    catalog = write_catalog(here / "catalog")
    text = GRID.format(name="secrets").replace('["0.25"]', '["0.25", "0.5"]').replace("[7]", "[7, 8]")
    (catalog / "variants" / "secrets.toml").write_text(text, encoding="utf-8")
    write_shards(here / "data" / "secrets", make_rows(40))
    said = run("make", "--variant", "secrets/*-s8", "--catalog", catalog, "--format", "overlay", "--out", "ladder", "--json")
    names = [f"secrets-flip-pair-{ratio}-s8.overlay" for ratio in ("0.25", "0.5")]
    assert [variant["path"] for variant in said.data["variants"]] == [f"ladder/{name}" for name in names]
    assert [variant["counts"]["changed"] for variant in said.data["variants"]] == [10, 20]
    words = ("make", "--dataset", "secrets", "--flip", "0.25,0.5", "--mode", "pair", "--seed", "8", "--catalog", catalog)
    by_flags = run(*words, "--format", "overlay", "--out", "flags", "--json")
    assert [variant["path"] for variant in by_flags.data["variants"]] == [f"flags/{name}" for name in names]
    assert [v["variant_id"] for v in by_flags.data["variants"]] == [v["variant_id"] for v in said.data["variants"]]
    by_plan = run("plan", "--variant", "secrets/*-s8", "--catalog", catalog, "--out", "plans", "--json")
    assert [v["variant_id"] for v in by_plan.data["variants"]] == [v["variant_id"] for v in said.data["variants"]]


def test_rewrites_of_the_catalog_take_their_table(here: Path, run: Run) -> None:
    catalog = write_catalog(here / "catalog")
    text = GRID.format(name="secrets").replace('kind = "flip"\nmode = "pair"', 'kind = "rewrite"\nlevels = 1').replace("[7]", "[0]")
    (catalog / "variants" / "secrets.toml").write_text(text.replace('["0.25"]', '["0.25", "0.5"]'), encoding="utf-8")
    write_shards(here / "data" / "secrets", rows := make_rows(40))
    texts = [json.dumps({"key": row.key, "level": 1, "text": f"not {row.key}"}) for row in rows]
    (here / "texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    words = ("--catalog", catalog, "--format", "overlay", "--json")
    said = run("make", "--variant", "secrets/rewrite-*", *words, "--table", "texts.jsonl", "--out", "grid")
    assert [variant["counts"]["changed"] for variant in said.data["variants"]] == [10, 20]
    flags = ("--rewrite", "0.25,0.5", "--levels", 1, "--table", "texts.jsonl")
    by_flags = run("make", "--dataset", "secrets", *flags, *words, "--out", "flags")
    assert [v["variant_id"] for v in by_flags.data["variants"]] == [v["variant_id"] for v in said.data["variants"]]
    without = run("make", "--variant", "secrets/rewrite-0.25-s0", *words)
    assert (without.status, without.data["problems"][0]["found"][:48]) == (2, "10 of 10 chosen rows have no text in the table, "[:48])
    absent = run("make", "--variant", "secrets/rewrite-0.25-s0", *words, "--table", "no.jsonl")
    assert (absent.status, absent.data["problems"][0]["file"]) == (2, "--table")
    more = run("make", "--variant", "secrets/rewrite-0.25-s0", *words, "--table", "texts.jsonl", "--levels", "2")
    assert (more.status, more.data["problems"][0]["file"]) == (2, "--levels")
    beside = run("make", "--variant", "openmoji/swap-0.05-s0", "--source", "src", "--table", "texts.jsonl", "--json")
    assert (beside.status, beside.data["problems"][0]["file"]) == (2, "--table")


def test_template_has_the_names_of_the_catalog(here: Path, run: Run) -> None:
    """The identity is that of stated names; names that are stated go before the catalog's."""
    catalog, names = write_catalog(here / "catalog"), [f"class {n}" for n in range(20)]
    with (catalog / "sources" / "secrets.toml").open("a", encoding="utf-8") as file:
        file.write('class_names = "secrets.json"\n')
    (catalog / "sources" / "secrets.json").write_text(json.dumps(names), encoding="utf-8")
    (here / "names.json").write_text(json.dumps(names), encoding="utf-8")
    (here / "others.json").write_text(json.dumps(names[::-1]), encoding="utf-8")
    write_shards(here / "data" / "secrets", make_rows(40))
    words = ("--constant", "0.5", "--mode", "template", "--text", "a {}", "--catalog", catalog, "--format", "overlay", "--json")
    ids = {
        name: run("make", "--dataset", "secrets", *words, "--out", name, *more).data["variants"][0]["variant_id"]
        for name, more in (("default", ()), ("stated", ("--names", "names.json")), ("others", ("--names", "others.json")))
    }
    assert ids["default"] == ids["stated"] != ids["others"]
    assert read_edits(here / "default" / ".corruptkit" / "plan.parquet")["new"][0].as_py().startswith("a class ")
    without = run("make", "--source", "src", *words)
    assert (without.status, without.data["problems"][0]["found"]) == (2, "constant mode 'template' needs names")


# fetch


@pytest.mark.usefixtures("few")
def test_fetch_says_what_and_whose_it_is(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("fetch", "openmoji", "--out", "mine", "--json")
    assert said.data == {"command": "fetch", "variants": [], "problems": [], "path": "mine", "license": "CC BY-SA 4.0"}
    lines = run("fetch", "openmoji", "--out", "mine").out.splitlines()
    assert lines[0].startswith("mine: OpenMoji")
    assert lines[1].startswith("  CC BY-SA 4.0: All emojis designed by OpenMoji")
    assert run("fetch", "openmoji").out.startswith("data/openmoji: ")
    monkeypatch.setenv("CORRUPTKIT_DATA", "elsewhere")
    assert run("fetch", "openmoji").out.startswith("elsewhere/openmoji: ")
    assert run("fetch", "openmoji", "--out", "src").status == 2
    assert here.is_dir()


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


# list


def test_list_of_sources_and_kinds(here: Path, run: Run) -> None:
    assert here.is_dir()
    assert run("list", "sources", "openm*").out.startswith("openmoji: OpenMoji")
    sources = run("list", "sources", "--json").data["sources"]
    assert list(sources) == list(load_catalog().sources)
    assert (sources["openmoji"]["license"], sources["openmoji"]["splits"]) == ("CC BY-SA 4.0", {"train": 3953})
    assert sources["cc3m"]["mirrors"][0]["rows"] == {"train": 2905954, "validation": 13443}
    assert run("list", "kinds", "--json").data["kinds"].keys() == KINDS.keys()
    lines = run("list", "kinds").out.splitlines()
    assert [line.split()[0] for line in lines] == list(KINDS)
    assert all(len(line.split()) > 3 for line in lines)


def test_list_of_variants_names_what_make_takes(here: Path, run: Run) -> None:
    assert here.is_dir()
    said = run("list", "variants")
    names = [line.split()[0] for line in said.out.splitlines()]
    assert names == list(load_catalog().variants)
    assert len(names) > 100
    swaps = run("list", "variants", "openmoji/swap-*")
    assert [line.split()[0] for line in swaps.out.splitlines()] == [name for name in names if name.startswith("openmoji/swap-")]
    assert run("list", "variants", "openmoji/swop-0.05-s0").err.endswith("did you mean 'openmoji/swap-0.05-s0'?\n")
    assert "()" not in said.out
    data = run("list", "variants", "--json").data
    assert data["variants"] == []
    assert list(data["names"]) == names


def test_list_takes_a_catalog(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = write_catalog(here / "catalog")
    assert run("list", "sources", "--catalog", catalog).out.splitlines() == [
        "secrets: Secrets",
        "  holds    rows not known; label of 20 classes and caption; keys by the rule sample",
        "  licence  not ours to give, https://example.org/license",
        "  terms    sign the form",
        "  get it   huggingface-cli download example/secrets --local-dir data/secrets  (not fetched by corruptkit)",
    ]
    assert run("list", "variants", "--catalog", catalog).out == "secrets/flip-pair-0.25-s7  seed 7: flip 0.25 (mode pair)\n"
    monkeypatch.setenv("CORRUPTKIT_CATALOG", str(catalog))
    assert run("list", "sources", "--json").data["sources"].keys() == {"secrets"}
    (catalog / "variants" / "secrets.toml").unlink()
    assert run("list", "variants").out.strip() == ""


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
