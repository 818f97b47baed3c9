"""Every input of `refused` is refused in one line, with nothing written; every input of `read_right` is read as it says.

An input is a file: its docstring says in a sentence what is wrong or odd, its `build` makes it in the working folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

from corruptkit import commands
from corruptkit.cli import main
from corruptkit.errors import Problem, escape_text, strip_secrets
from corruptkit.opening import open_dataset
from tests.broken.inputs import ReadRight, Refused
from tests.corruptkit.shards import HIDDEN

HERE = Path(__file__).parent
REFUSED, READ_RIGHT = (sorted(path.stem for path in (HERE / kind).glob("*.py")) for kind in ("refused", "read_right"))
# Enough to see that a process says what `main` says: exit status, standard error, no traceback from a worker.
IN_A_PROCESS = ("truncated_tar", "label_that_is_no_number", "json_that_is_too_deep", "target_that_holds_another_variant")
# Takes from the superuser what lets him read every file (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH), then becomes the command.
_MORTAL = """
import ctypes, os, sys
for power in (1, 2):
    ctypes.CDLL(None).prctl(24, power)
os.execv(sys.executable, [sys.executable, "-m", "corruptkit", *sys.argv[1:]])
"""


class Said(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that an input is built in and named from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / f"{tmp_path.name}-cache"))
    monkeypatch.setattr(commands, "_workers", lambda args: args.workers or 1)
    return tmp_path


def run_here(capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    capsys.readouterr()
    status = main(words)
    return Said(status, *capsys.readouterr())


def run_process(*words: str, mortal: bool = False) -> Said:
    command = [sys.executable, "-c", _MORTAL, *words] if mortal else [sys.executable, "-m", "corruptkit", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder by its path, but for indexes: a kept index is a cache and no result."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        kept = path.name == HIDDEN and all(file.name.startswith("index-") for file in path.iterdir())
        if not kept and f"{HIDDEN}/index-" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) and path.is_file() else "no file"
    return found


def load(kind: str, name: str, folder: Path) -> Any:
    return import_module(f"tests.broken.{kind}.{name}").build(folder)


def test_every_file_is_collected() -> None:
    """Nothing in the folders slips by: a file of another kind, a deeper one, one without its sentence or its function."""
    files = {path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    own = {HERE / "__init__.py", HERE / "inputs.py", Path(__file__)}
    inputs = {HERE / kind / f"{name}.py" for kind, names in (("refused", REFUSED), ("read_right", READ_RIGHT)) for name in names}
    assert files == own | inputs
    assert len(REFUSED) >= 35
    assert len(READ_RIGHT) >= 14
    for path in sorted(inputs):
        module = import_module(f"tests.broken.{path.parent.name}.{path.stem}")
        assert re.fullmatch(r"[A-Z][^\n]{10,130}\.", module.__doc__ or ""), f"{path.name} says in one sentence what it is"
        assert callable(module.build)


# Refused


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_with_nothing_written(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Refused = load("refused", name, folder)
    if case.after_plan is not None:
        make_plans, harm = commands.make_plans, case.after_plan
        monkeypatch.setattr(commands, "make_plans", lambda *args, **how: [list(make_plans(*args, **how)), harm()][0])
    words, before = case.words.split(), snapshot(folder)
    said = run_process(*words, mortal=True) if case.mortal else run_here(capsys, *words)
    assert_line(said, case)
    assert snapshot(folder) == before, "nothing is written"
    told = run_process(*words, "--json", mortal=True) if case.mortal else run_here(capsys, *words, "--json")
    assert_object(told, said, case)
    assert snapshot(folder) == before, "nothing is written"
    if name in IN_A_PROCESS:
        assert run_process(*words) == said


def assert_line(said: Said, case: Refused) -> None:
    assert (said.status, said.out) == (2, ""), said
    assert re.fullmatch(r"error: [^\n]{20,400}\n", said.err), said.err
    assert "Traceback" not in said.err
    assert said.err.startswith(f"error: {escape_text(case.file)}"), said.err
    for part in (case.key[:200], case.found, case.do):
        assert escape_text(part) in said.err, said.err


def assert_object(told: Said, said: Said, case: Refused) -> None:
    assert (told.status, told.err) == (2, said.err)
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    assert {name: answer[name] for name in ("command", "variants")} == {"command": case.words.split()[0], "variants": []}
    (problem,) = answer["problems"]
    assert all(problem[part] for part in ("file", "found", "do")), problem
    assert (problem["file"], problem["key"]) == (case.file, strip_secrets(case.key))
    assert case.found in problem["found"] + problem["expected"]
    assert case.do in problem["do"]
    assert said.err == f"error: {Problem(**problem)}\n"


# Read right


@pytest.mark.parametrize("name", READ_RIGHT)
def test_read_right_made_verified_and_restored(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case: ReadRight = load("read_right", name, folder)
    source = case.words.split()[1]
    dataset = open_dataset(source)
    assert list(dataset.rows()) == case.rows
    given, read = snapshot(folder / source), []
    for form in case.forms:
        made = run_here(capsys, "make", *case.words.split(), "--format", form, "--out", f"made-{form}")
        assert (made.status, made.err) == (0, "")
        assert run_here(capsys, "verify", f"made-{form}", "--source", source)[::2] == (0, "")
        assert run_here(capsys, "restore", f"made-{form}", "--out", f"again-{form}")[::2] == (0, "")
        assert conditions(f"again-{form}", decode=form == "webdataset" != dataset.layout.format) == conditions(source)
        if form == "overlay" or form == dataset.layout.format == "webdataset":
            assert snapshot(folder / f"again-{form}") == given
        assert json.loads((folder / f"made-{form}" / HIDDEN / "manifest.json").read_bytes())["counts"]["changed"] > 0
        read.append(conditions(f"made-{form}"))
    assert all(rows == read[0] for rows in read)
    assert read[0] != conditions(source)
    deep = run_here(capsys, "verify", f"made-{dataset.layout.format}", "--source", source, "--deep")
    assert dataset.layout.format == "imagefolder" or deep[::2] == (0, "")


def conditions(path: str, *, decode: bool = False) -> dict[str, tuple[Any, ...]]:
    """What a source or variant holds by key; the other columns are written as each format can hold them.

    Tars that were made of another layout encode their keys (FORMAT.md section 4).
    """
    rows = {row["key"]: tuple(row.get(field) for field in ("image", "label", "caption")) for row in open_dataset(path).rows()}
    return {unquote(key): values for key, values in rows.items()} if decode else rows
