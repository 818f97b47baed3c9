"""Pages on training: those made from the code are what the code makes, and the others name what is there."""

from __future__ import annotations

import re
import runpy
from typing import get_args

import pytest

from corruptkit_train.config import RunConfig
from corruptkit_train.objectives import Objective, Schedule
from corruptkit_train.perturbation import Perturbation
from corruptkit_train.sampling import SamplerConfig
from tests.test_layers import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGE = (DOCS / "training.md").read_text("utf-8")


def test_page_of_commands_is_fresh() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["write_train_page"]()
    assert (DOCS / "train-cli.md").read_text("utf-8") == made, "run python docs/make_cli.py"


def test_page_of_runs_is_fresh_and_says_what_every_field_is() -> None:
    made = runpy.run_path(str(DOCS / "make_runs.py"))["write_page"]()
    assert (DOCS / "runs.md").read_text("utf-8") == made, "run python docs/make_runs.py"
    silent = re.findall(r"^\| `(\w+)` \| (?!table|list of table).*\|  \|$", made, re.MULTILINE)
    assert silent == [], "fields without a comment in the code"
    assert {f"`{name}`" for name in RunConfig.model_fields} <= set(re.findall(r"`\w+`", made.partition("## [data]")[0]))


def test_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 12
    for file, test in named:
        assert f"\ndef {test}(" in (REPOSITORY / file).read_text("utf-8"), f"{file}::{test}"


def test_every_trap_is_covered() -> None:
    rows = re.findall(r"^\| (\d+)\. .* \| (.+) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 12))
    for number, covered in rows:
        assert "`tests/" in covered or re.search(r"\b[Yy]ou\b", covered), number


@pytest.mark.parametrize("place", ["images", "conditions", "perturbation", "models/", "loop", "sampling", "pipelines/"])
def test_the_path_names_what_is_there(place: str) -> None:
    stanzas = PAGE.partition("## The path")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*[\w ]+\*\* \(.*\)\. \*In\*", stanzas, re.MULTILINE)) == 5
    assert f"`{place if place.endswith('/') else place + '.py'}`" in stanzas
    assert (REPOSITORY / "train" / "corruptkit_train" / (place if place.endswith("/") else f"{place}.py")).exists()


def test_kinds_of_the_page_are_those_of_the_code() -> None:
    objectives = [model.model_fields["kind"].default for model in get_args(get_args(Objective)[0])]
    perturbations = [model.model_fields["kind"].default for model in get_args(get_args(Perturbation)[0])]
    for title, kinds in (("Objectives and schedules", objectives), ("Perturbations", perturbations)):
        table = PAGE.partition(f"## {title}\n")[2].partition("\n\n## ")[0].strip().partition("\n\n")[0]
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == kinds
    for model, field in ((Schedule, "name"), (SamplerConfig, "name")):
        assert set(get_args(model.model_fields[field].annotation)) <= set(re.findall(r"`(\w+)`", PAGE))
