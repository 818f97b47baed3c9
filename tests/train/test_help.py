"""`corruptkit-train --help` answers at once: nothing heavy is loaded."""

from __future__ import annotations

import pytest

from tests.test_help import HEAVY, run_python, timed_imports

HEAVIER = HEAVY | {"accelerate", "diffusers", "PIL", "safetensors", "tensorboard", "tqdm", "transformers"}


@pytest.mark.parametrize("flags", [["--help"], ["run", "--help"], ["sample", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(flags: list[str]) -> None:
    done = run_python("-X", "importtime", "-m", "corruptkit_train", *flags)
    names = timed_imports(done.stderr)
    assert {"argparse", "corruptkit", "corruptkit_train"} <= names, "the report was not read"
    assert names & HEAVIER == set()
    assert done.stdout
