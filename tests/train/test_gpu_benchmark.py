"""benchmarks/gpu.sh, as it runs where there is no GPU: the same script with tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers import REPOSITORY

_SCRIPT = REPOSITORY / "benchmarks" / "gpu.sh"
# What corruptkit_train can use and a machine with a GPU need not have.
_ABSENT = (
    "transformers",
    "tokenizers",
    "datasets",
    "polars",
    "typer",
    "rich",
    "tensorboard",
    "wandb",
    "webdataset",
    "torchvision",
    "scipy",
)


def run_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({_ABSENT!r}))\n")
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    line = [str(_SCRIPT), "--smoke", "--out", str(folder / "out"), *words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("name", ["DiT-S/2", "LDM-4"])
def test_smoke(tmp_path: Path, name: str) -> None:
    """Both loops of a model, without what a machine with a GPU need not have."""
    done = run_script(tmp_path, "--only", name)
    logs = "".join(path.read_text() for path in (tmp_path / "out").glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    (result,) = json.loads((tmp_path / "out" / "results.json").read_text()).values()
    assert result["ours"]["images_per_s"] > 0
    assert result["plain"]["images_per_s"] > 0
    assert 0 < result["ours"]["mfu"] < 1
    assert result["batch"] == 16
    assert f"| {name} | 16 |" in (tmp_path / "out" / "results.md").read_text()


def test_a_failure_leaves_the_others(tmp_path: Path) -> None:
    """A model that does not end in its time is named, and the results are whole."""
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        import gpu
    finally:
        sys.path.pop(0)
    log = tmp_path / "LDM-4.log"
    assert gpu.run_apart(["LDM-4", str(tmp_path), "--smoke"], log, 0.2) == "not done within 0 s"
    gpu.write_results(
        tmp_path, {"LDM-4": {"failure": "not done within 0 s"}, "DiT-S/2": {"plain": {"images_per_s": 7.0, "mfu": 0.1, "batch": 4}}}
    )
    text = (tmp_path / "results.md").read_text()
    assert "| LDM-4 | - | - | - | - | - | - | - | - |" in text
    assert "| DiT-S/2 | - (plain 4) | - | - | - | 7.0 | 10.0% | - | - |" in text
    assert "- LDM-4: not done within 0 s" in text


def test_what_did_not_end_had_been_logged(tmp_path: Path) -> None:
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        import gpu
    finally:
        sys.path.pop(0)
    (tmp_path / "DiT-S-2-run").mkdir()
    lines = [{"images_per_s": rate, "mfu": rate / 100, "data_wait": 0.0, "peak": "stated"} for rate in (1.0, 30.0, 40.0, 50.0)]
    (tmp_path / "DiT-S-2-run" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"images_per')
    assert gpu.read_lines(tmp_path, "DiT-S/2")["ours"] == {
        "images_per_s": 40.0,
        "mfu": 0.4,
        "data_wait": 0.0,
        "lines": 3,
        "peak": "stated",
        "unfinished": True,
    }
    assert gpu.read_lines(tmp_path, "LDM-4") == {}
    eager = {"images_per_s": 9.0, "mfu": 0.3, "compiled": False}
    gpu.write_results(tmp_path, {"LDM-4": {"batch": 8, "ours": eager, "failure": "not done within 0 s"}})
    assert "| LDM-4 | 8 | 9.0 (not compiled) | 30.0% |" in (tmp_path / "results.md").read_text()
