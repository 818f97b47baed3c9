"""Imports go down only: the graph of corruptkit/, read from its source (imports inside functions too), has no upward edge and no cycle.

tests/train/test_layers.py asks the same of corruptkit_train/.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "corruptkit"


@dataclass(frozen=True)
class Rules:
    """What a package's modules may import of each other, and what they may not name at all."""

    layers: tuple[AbstractSet[str], ...]  # from the top down; names are files of the package, or folders
    foreign: AbstractSet[str]  # packages that are never imported
    strangers: AbstractSet[str] = frozenset()  # folders that know nothing of each other
    crossings: AbstractSet[tuple[str, str]] = frozenset()  # but for these
    may_hash: AbstractSet[str] = frozenset()  # built-in hash() differs between processes; the linter cannot ban a built-in

    def rank(self, room: str) -> int | None:
        return next((rank for rank, rooms in enumerate(self.layers) if room in rooms), None)


RULES = Rules(
    layers=(
        {"__main__", "cli", "commands", "request"},
        {
            "account_lines",
            "accounting",
            "compare",
            "conversion",
            "diff",
            "listing",
            "memory",
            "publish",
            "report",
            "restore",
            "tasks",
            "verify",
            "write",
        },
        {"catalog", "dataset", "edits", "index", "opening", "plan", "target"},
        {"manifest", "recipe"},
        {"corruptions", "engines", "fetching", "formats"},
        {"chisquare", "digest", "draws", "errors", "files", "names", "remote", "servers", "terminal"},
    ),
    # Training, pipelines and what they stand on are never imported from here.
    foreign={"accelerate", "corruptkit_train", "diffusers", "pipelines", "torch", "train", "transformers"},
    strangers={"corruptions", "engines", "fetching", "formats"},  # corruptions know no format, formats no corruption
    crossings={("fetching", "formats")},  # a fetched source is written as shards
    may_hash={"draws", "manifest"},
)


def module_names(package: Path) -> dict[str, Path]:
    """Every module below `package`, named from it ("" is the package itself, "formats" a folder's __init__)."""
    paths = {path: path.relative_to(package).with_suffix("").parts for path in sorted(package.rglob("*.py"))}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in paths.items()}


def imported_names(tree: ast.Module) -> list[tuple[str, int]]:
    """Absolute dotted names that a module imports, `from a import b` as "a.b", with their lines; relative imports begin with dots."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (node.module or "")
            found += [(f"{stem}.{alias.name}", node.lineno) for alias in node.names]
    return found


def resolve_module(name: str, package: str, modules: dict[str, Path]) -> str | None:
    """The module of the package that `name` lies in, "" where that is the package's root, None where it is not the package's."""
    head, _, rest = name.partition(".")
    if head != package:
        return None
    while rest and rest not in modules:
        rest = rest.rpartition(".")[0]
    return rest


def edge_problem(user: str, used: str, rules: Rules) -> str:
    """What is wrong with `user` importing `used`, or an empty string."""
    above, below = user.partition(".")[0], used.partition(".")[0]
    if used == "":
        return "imports from the package root: name the module instead"
    if user == "":
        return ""  # the root names what is public, from anywhere
    if (rules.rank(below) or 0) < (rules.rank(above) or 0):
        return f"imports {used}, which lies above it"
    if above != below and {above, below} <= rules.strangers and (above, below) not in rules.crossings:
        return f"imports {used}: {above} know no {below}"
    return ""


def tree_problems(user: str, tree: ast.Module, rules: Rules) -> list[str]:
    """What a module may not name, whatever the graph: foreign packages, relative imports, built-in hash."""
    found = []
    for name, line in imported_names(tree):
        if name.startswith("."):
            found.append(f"{user}:{line} imports {name} by a relative path")
        if name.partition(".")[0] in rules.foreign:
            found.append(f"{user}:{line} imports {name}")
    if user not in rules.may_hash:
        lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "hash"]
        found += [f"{user}:{line} uses built-in hash, which differs between processes" for line in lines]
    return found


def package_problems(package: Path, rules: Rules = RULES) -> list[str]:
    """Everything that breaks the layers of the package in this folder."""
    modules = module_names(package)
    found = [f"{name} has no place in the layers" for name in modules if name and rules.rank(name.partition(".")[0]) is None]
    if found:
        return found
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for user, path in modules.items():
        tree = ast.parse(path.read_bytes())
        found += tree_problems(user, tree, rules)
        for name, line in imported_names(tree):
            used = resolve_module(name, package.name, modules)
            if used is None or used == user:
                continue
            graph[user].add(used)
            problem = edge_problem(user, used, rules)
            found += [f"{user}:{line} {problem}"] if problem else []
    return found + cycle_problems(graph)


def cycle_problems(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["cycle: " + " -> ".join(reversed(error.args[1]))]
    return []


def test_imports_go_down_only() -> None:
    assert package_problems(PACKAGE) == []


def test_graph_was_read() -> None:
    names = module_names(PACKAGE)
    assert {"errors", "draws", "digest"} <= names.keys()
    trees = [ast.parse(path.read_bytes()) for path in names.values()]
    used = {resolve_module(name, "corruptkit", names) for tree in trees for name, _ in imported_names(tree)}
    assert {"errors", "draws", "digest", "corruptions.labels"} <= used


def grow_package(folder: Path, files: dict[str, str]) -> Path:
    """A package named corruptkit that holds one sound path from top to bottom, and `files`."""
    sound = {
        "__init__.py": "def __getattr__(name):\n    from corruptkit.write import write_variant\n    return write_variant",
        "__main__.py": "from corruptkit.cli import main",
        "cli.py": "def main():\n    from corruptkit import verify, write",
        "verify.py": "from corruptkit.write import write_variant",
        "write.py": "from corruptkit.dataset import open_dataset",
        "dataset.py": "import numpy\nfrom corruptkit import plan\nfrom corruptkit.formats import webdataset",
        "plan.py": "import corruptkit.recipe",
        "recipe.py": "from corruptkit.corruptions.labels import Flip",
        "corruptions/__init__.py": "from corruptkit.corruptions.labels import Flip",
        "corruptions/labels.py": "from corruptkit.draws import below",
        "formats/__init__.py": "",
        "formats/webdataset.py": "from corruptkit.errors import DatasetError",
        "fetching/openmoji.py": "from corruptkit.formats import webdataset",
        "draws.py": "def seed(text):\n    return hash(text)",
        "errors.py": "",
    }
    package = folder / "corruptkit"
    for name, text in (sound | files).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, "utf-8")
    return package


def test_sound_package_has_no_problem(tmp_path: Path) -> None:
    assert package_problems(grow_package(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("errors.py", "import corruptkit.draws, corruptkit.write", "errors:1 imports write, which lies above it"),
        ("recipe.py", "def load():\n    from corruptkit.plan import make_plan", "recipe:2 imports plan, which lies above it"),
        ("plan.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from corruptkit.dataset import D", "cycle: "),
        ("write.py", "def check():\n    import corruptkit.verify", "cycle: "),
        ("formats/arrow.py", "from corruptkit.corruptions.labels import Flip", "formats know no corruptions"),
        ("corruptions/captions.py", "from corruptkit import formats", "corruptions know no formats"),
        ("plan.py", "from corruptkit import make_plan", "imports from the package root"),
        ("plan.py", "import corruptkit", "imports from the package root"),
        ("plan.py", "from . import recipe", "by a relative path"),
        ("dataset.py", "def to_torch():\n    import torch.utils.data", "dataset:2 imports torch.utils.data"),
        ("publish.py", "from corruptkit_train import run", "publish:1 imports corruptkit_train.run"),
        ("digest.py", "order = sorted([], key=hash)", "digest:1 uses built-in hash"),
        ("helpers.py", "", "helpers has no place in the layers"),
        ("helpers/text.py", "", "helpers.text has no place in the layers"),
    ],
)
def test_checker_finds(tmp_path: Path, name: str, text: str, said: str) -> None:
    found = package_problems(grow_package(tmp_path, {name: text}))
    assert any(said in problem for problem in found), found


def lint_codes(text: str, name: str) -> set[str]:
    """The codes that the project's own ruff settings give for `text` under that name."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=json", f"--stdin-filename={name}", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return {row["code"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import torch\n", "TID251"),
        ("from transformers import AutoModel\n", "TID251"),
        ("import random\n", "TID251"),
        ("import numpy as np\n\nx = np.random.default_rng(0)\n", "TID251"),
        ("import uuid\n", "TID251"),
        ("from time import time\n\nx = time()\n", "TID251"),
        ("import time\n\nx = time.time_ns()\n", "TID251"),
        ("print(1)\n", "T201"),
    ],
)
def test_linter_bans(text: str, code: str) -> None:
    assert code in lint_codes(text, "corruptkit/plan.py")
    homes = ["corruptkit/cli.py"] if code == "T201" else ["corruptkit/draws.py", "corruptkit/manifest.py"]
    assert all(code not in lint_codes(text, home) for home in homes)
