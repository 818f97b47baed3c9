"""What words ask for: data sets of the catalog, its variants and patterns, and what is fetched for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit.catalog import load_catalog
from corruptkit.formats.overlay import read_edits
from tests.corruptkit.saying import GRID, Run, new_folders, write_catalog
from tests.corruptkit.shards import Row, make_rows, write_shards

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
