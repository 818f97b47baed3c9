"""What `list` tells of sources, variants and kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from corruptkit.catalog import load_catalog
from corruptkit.corruptions import KINDS
from tests.corruptkit.saying import Run, write_catalog

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
