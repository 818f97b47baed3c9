"""What the README promises, run as it stands: its blocks in order, its words and its links."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

import corruptkit as ck
from corruptkit.cli import build_parser
from corruptkit.corruptions import KINDS
from corruptkit_train.cli import build_parser as build_train_parser

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text("utf-8")
FORMAT = (REPOSITORY / "FORMAT.md").read_text("utf-8")
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
EDGE = {"diff": 1}  # of two data sets that differ
pytestmark = pytest.mark.xdist_group("readme")  # one worker runs them all, so that the blocks run once


class Block(NamedTuple):
    """A fenced block of the README: its language and its lines."""

    language: str
    text: str


def fenced_blocks(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def console_commands(text: str) -> Iterator[tuple[list[str], str]]:
    """Each command after a `$`, and what the block shows of its output ("" where it shows nothing)."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield shlex.split(command), shown


def run_here(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody does who has activated the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORRUPTKIT_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=folder, env=kept | {"PATH": path}, capture_output=True, text=True, check=False)


# The blocks, run


@pytest.fixture(scope="module")
def story(openmoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every block of the README has been run, in order."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(openmoji, folder / "data" / "openmoji")
    for block in fenced_blocks(README):
        if block.language == "console":
            for command, shown in console_commands(block.text):
                run_command(folder, command, shown)
        elif block.language == "toml":
            name = re.match(r"# (\S+\.toml)\n", block.text)
            assert name, "a TOML block says in its first line what the file is called"
            (folder / name[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            done = run_here(folder, "python", "-W", "error", "-c", block.text)
            assert (done.returncode, done.stderr) == (0, ""), block.text
        else:
            pytest.fail(f"nobody runs a block of '{block.language}'")
    return folder


def run_command(folder: Path, command: list[str], shown: str) -> None:
    assert command[0] == "corruptkit"
    done = run_here(folder, *command)
    said = f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    assert done.returncode == EDGE.get(command[1], 0), said
    assert done.stderr == "", said
    assert done.stdout, said
    assert done.stdout == (shown or done.stdout), said


def test_every_block_runs_and_prints_what_it_shows(story: Path) -> None:
    left = {path.name for path in story.iterdir()} - {"data"}
    plans = {"openmoji-flip-0.05-s0.plan.parquet"}
    assert left == plans | {"openmoji-swap-0.05-s0", "ladder", "grid", "openmoji-again", "recipe.toml", "recipe.overlay", "swap.overlay"}
    assert [len(list((story / name).iterdir())) for name in ("ladder", "grid")] == [6, 6]


def test_there_are_blocks_of_every_kind() -> None:
    languages = [block.language for block in fenced_blocks(README)]
    assert set(languages) == {"console", "toml", "python"}
    commands = [command for block in fenced_blocks(README) if block.language == "console" for command, _ in console_commands(block.text)]
    assert {command[1] for command in commands} >= {"make", "verify", "show", "diff", "restore"}
    assert sum(bool(shown) for b in fenced_blocks(README) if b.language == "console" for _, shown in console_commands(b.text)) >= 2


def test_variants_of_the_readme_verify(story: Path) -> None:
    for name in (
        "openmoji-swap-0.05-s0",
        "recipe.overlay",
        "swap.overlay",
        *(f"ladder/{path.name}" for path in (story / "ladder").iterdir()),
    ):
        assert ck.verify(story / name).problems == (), name
    assert ck.read_manifest(story / "swap.overlay").variant_id == ck.read_manifest(story / "openmoji-swap-0.05-s0").variant_id


def test_ladder_of_the_readme_is_nested(story: Path) -> None:
    """One seed's smaller ratio is a subset of its larger one, with the same values."""
    for seed in ("0", "1"):
        plans = []
        for ratio in ("0.025", "0.05", "0.1"):
            variant = story / "ladder" / f"openmoji-flip-prior-{ratio}-s{seed}.overlay"
            plan = pq.read_table(variant / ".corruptkit" / "plan.parquet", columns=["key", "new"])
            plans.append({(edit["key"], edit["new"]) for edit in plan.to_pylist()})
            assert ck.read_manifest(variant).counts.changed == len(plans[-1])
        assert plans[0] < plans[1] < plans[2]


def test_restored_source_of_the_readme_is_the_source(story: Path) -> None:
    for shard in sorted((story / "data" / "openmoji").glob("*.tar")):
        assert (story / "openmoji-again" / shard.name).read_bytes() == shard.read_bytes()


def test_variant_can_be_checked_without_corruptkit(story: Path) -> None:
    """FORMAT.md section 8, word for word."""
    section = FORMAT.partition("## 8. Checking without corruptkit")[2].partition("\n## ")[0]
    lines = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ")]
    assert len(lines) >= 2
    script = "\n".join(["set -euo pipefail", *(line.replace("VARIANT", "openmoji-swap-0.05-s0") for line in lines)])
    done = run_here(story, "bash", "-c", script)
    assert done.returncode == 0, done.stderr
    checked = re.findall(r"^(\S+): OK$", done.stdout, re.MULTILINE)
    assert checked == ["manifest.json", *(f"openmoji-train-000{n}.tar" for n in range(4))]


# Its words


def command_flags(program: argparse.ArgumentParser) -> list[tuple[str, str]]:
    (commands,) = (a for a in program._actions if isinstance(a, argparse._SubParsersAction))
    return [
        (name, flag)
        for name, parser in commands.choices.items()
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--") and flag != "--help"
    ]


@pytest.mark.parametrize(("command", "flag"), command_flags(build_parser()))
def test_every_flag_stands_in_the_page_of_its_command(command: str, flag: str) -> None:
    page = (REPOSITORY / "docs" / "cli.md").read_text("utf-8")
    section = page.partition(f"\n## corruptkit {command}")[2].partition("\n## ")[0]
    assert section, f"docs/cli.md has no section on {command}"
    row = re.search(rf"^\| `{flag}(?: [^`]*)?` \| (.*) \|$", section, re.MULTILINE)
    assert row, f"docs/cli.md does not mention {flag} of {command}"
    assert row[1].strip()


def test_flags_that_the_readme_mentions_exist() -> None:
    known = {flag for program in (build_parser(), build_train_parser()) for _, flag in command_flags(program)} | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


def test_table_of_kinds_is_that_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", README, re.MULTILINE))
    assert rows.keys() == KINDS.keys()
    for kind, modes in rows.items():
        stated = KINDS[kind].model_json_schema()["properties"]["mode"]
        assert set(re.findall(r"`(\w+)`", modes)) == set(stated.get("enum", [stated.get("const")]))


def test_public_names_of_the_readme_exist() -> None:
    assert set(re.findall(r"\bck\.(\w+)", README)) <= set(ck.__all__)


def test_make_targets_that_pages_mention_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in (README, (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")):
        mentioned = {a or b for a, b in re.findall(r"^ {4}make ([a-z-]+)|`make ([a-z-]+)`", page, re.MULTILINE)}
        assert mentioned
        assert mentioned <= targets


def test_python_that_the_readme_asks_for_is_the_packages() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    (stated,) = re.findall(r"Python (\d\.\d+) or newer", README)
    assert project["requires-python"] == f">={stated}"
    assert project["license"] in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("https://", "http://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"
