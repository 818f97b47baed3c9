"""What cannot live beside our pins, each in an environment of its own: `make test-foreign`.

A folder here is one environment: requirements.txt says what it holds (our own pins of those packages are left out), check.py is run
there and prints one line. `--record` writes the lines to RESULTS.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import venv
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
ENVIRONMENTS = REPOSITORY / ".venv-foreign"
RESULTS = HERE / "RESULTS.md"
HEADER = """\
# Other packages

Written by `make test-foreign RECORD=1`, one line an environment: what another package, in a version that does not live beside our pins,
read in a variant or made of the same labels. A run with a failure writes nothing.

| environment | result | Python | commit | date |
|---|---|---|---|---|
"""


def package_names(text: str) -> set[str]:
    """The normalised names of a requirements or constraints file."""
    found = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def trim_constraints(requirements: str) -> str:
    """Our pins without those of the packages that this environment chooses itself."""
    chosen = package_names(requirements)
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not package_names(line) & chosen)


def prepare_environment(folder: Path) -> Path:
    """The interpreter of the folder's environment, installed anew only where what it is made of has changed."""
    requirements = (folder / "requirements.txt").read_text("utf-8")
    constraints = trim_constraints(requirements)
    content = (REPOSITORY / "pyproject.toml").read_text("utf-8") + requirements + constraints + sys.version
    stamp_text = hashlib.sha256(content.encode()).hexdigest()
    home = ENVIRONMENTS / folder.name
    python, stamp = home / "bin" / "python", home / ".stamp"
    if stamp.exists() and stamp.read_text("utf-8") == stamp_text:
        return python
    venv.create(home, with_pip=True, clear=True)
    (home / "constraints.txt").write_text(constraints, "utf-8")
    pip = [python, "-m", "pip", "install", "-qq", "--no-input", "-c", home / "constraints.txt"]
    subprocess.run([*pip, "-e", REPOSITORY, "-r", folder / "requirements.txt"], check=True, cwd=REPOSITORY)
    stamp.write_text(stamp_text, "utf-8")
    return python


def run_check(folder: Path) -> tuple[bool, str]:
    """Whether check.py passed, and the line it ended on."""
    python = prepare_environment(folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON"))}
    done = subprocess.run([python, folder / "check.py"], capture_output=True, text=True, env=kept, cwd=REPOSITORY, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"failed with exit code {done.returncode}"


def describe_commit() -> str:
    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(git, capture_output=True, text=True, cwd=REPOSITORY, check=False).stdout.strip() or "uncommitted"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the checks of tests/foreign, each in its own environment.")
    parser.add_argument("--record", action="store_true", help="write the results to tests/foreign/RESULTS.md")
    arguments = parser.parse_args()
    rows, failed = [], 0
    commit, date = describe_commit(), datetime.now(UTC).date()
    for folder in sorted(path.parent for path in HERE.glob("*/requirements.txt")):
        passed, line = run_check(folder)
        failed += not passed
        print(f"{folder.name}: {line}")
        rows.append(f"| {folder.name} | {line} | {platform.python_version()} | {commit} | {date} |\n")
    if arguments.record and not failed:
        RESULTS.write_text(HEADER + "".join(rows), "utf-8")
    print(f"{len(rows) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
