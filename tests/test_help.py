"""The command line answers at once: `--help` loads nothing heavy. How long it takes stands in benchmarks/RESULTS.md."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

HEAVY = {"fsspec", "numpy", "pandas", "polars", "pyarrow", "pydantic", "pydantic_core", "torch", "webdataset", "xxhash"}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def timed_imports(report: str) -> set[str]:
    """The top-level names in a report of -X importtime: `import time: self | cumulative | name`."""
    return {name.partition(".")[0] for name in re.findall(r"^import time:[^|]*\|[^|]*\| +(\S+)$", report, re.MULTILINE)}


@pytest.mark.parametrize("flags", [["--help"], ["make", "--help"], ["verify", "--help"]])
def test_help_imports_nothing_heavy(flags: list[str]) -> None:
    done = run_python("-X", "importtime", "-m", "corruptkit", *flags)
    names = timed_imports(done.stderr)
    assert {"argparse", "corruptkit"} <= names, "the report was not read"
    assert names & HEAVY == set()
    assert done.stdout


def test_import_of_package_is_light() -> None:
    done = run_python("-c", "import sys, corruptkit, corruptkit.cli; print(*sys.modules)")
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert "corruptkit" in names
    assert names & HEAVY == set()


def test_report_shows_heavy_import() -> None:
    done = run_python("-X", "importtime", "-c", "import numpy.linalg")
    assert "numpy" in timed_imports(done.stderr) & HEAVY
