"""A smoke run of the bare wheel in an environment that holds what the wheel asks for and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.xdist_group("wheel")  # one worker runs them all, so that the environment is made once

ROWS = 12
DEVELOPMENT = {"coverage", "hypothesis", "mypy", "pillow", "polars", "pytest", "ruff", "torch", "webdataset"}


def run_command(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that succeeds; it sees no coverage hook and no path of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHON", "CORRUPTKIT"))}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=kept, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install_quietly(python: Path | str, *arguments: str | Path) -> None:
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "-qq"]
    run_command(python, *pip, *arguments, cwd=REPOSITORY)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    install_quietly(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ".")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and its run-time dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install_quietly(python, "install", "-c", REPOSITORY / "constraints.txt", wheel)
    return python


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_source(folder: Path) -> Path:
    """A WebDataset of one shard: an image, a label of three and a caption a row."""
    folder.mkdir()
    with tarfile.open(folder / "train-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in range(ROWS):
            key = f"{row:06d}"
            add_member(tar, f"{key}.jpg", hashlib.sha256(key.encode()).digest())
            add_member(tar, f"{key}.cls", str(row % 3).encode())
            add_member(tar, f"{key}.txt", f"a photo of thing {row}".encode())
    return folder


def test_wheel_holds_library_catalog_and_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        catalog = {name.removeprefix("corruptkit/_catalog/"): archive.read(name) for name in names if "/_catalog/" in name}
        metadata = BytesParser().parsebytes(archive.read("corruptkit-0.1.0.dist-info/METADATA"))
    folder = REPOSITORY / "catalog"
    assert catalog == {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(name.startswith("sources/") for name in catalog)
    assert {name.partition("/")[0] for name in names} == {"corruptkit", "corruptkit-0.1.0.dist-info"}
    assert {"corruptkit/cli.py", "corruptkit/py.typed", "corruptkit-0.1.0.dist-info/licenses/LICENSE"} <= names
    assert metadata["License-Expression"] == "Apache-2.0"
    required = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert required == set(project["dependencies"])
    assert not {line.partition(">")[0] for line in required} & DEVELOPMENT


def test_clean_environment_is_clean(clean_python: Path) -> None:
    rows = json.loads(run_command(clean_python, "-m", "pip", "list", "--format=json", cwd=clean_python.parent))
    installed = {row["name"].lower() for row in rows}
    assert {"corruptkit", "numpy", "pyarrow"} <= installed
    assert installed & DEVELOPMENT == set()


def test_command_line_runs(clean_python: Path, tmp_path: Path) -> None:
    corruptkit = clean_python.with_name("corruptkit")
    source, variant = write_source(tmp_path / "things"), tmp_path / "variant"
    assert "make" in run_command(corruptkit, "--help", cwd=tmp_path)
    assert "openmoji" in run_command(corruptkit, "list", "sources", cwd=tmp_path)
    made = json.loads(run_command(corruptkit, "make", "--source", source, "--flip", "0.5", "--out", variant, "--json", cwd=tmp_path))
    (entry,) = made["variants"]
    assert entry["counts"]["rows"] == ROWS
    assert entry["counts"]["changed"] == ROWS // 2
    manifest = json.loads((variant / ".corruptkit" / "manifest.json").read_text("utf-8"))
    assert manifest["variant_id"] == entry["variant_id"]
    run_command(corruptkit, "verify", variant, cwd=tmp_path)
    run_command(corruptkit, "restore", variant, "--out", tmp_path / "restored", cwd=tmp_path)
    name = "train-000000.tar"
    assert (tmp_path / "restored" / name).read_bytes() == (source / name).read_bytes()


def test_library_reads_variant(clean_python: Path, tmp_path: Path) -> None:
    source, overlay = write_source(tmp_path / "things"), tmp_path / "things.overlay"
    command = ["make", "--source", source, "--swap", "0.5", "--format", "overlay", "--out", overlay]
    run_command(clean_python.with_name("corruptkit"), *command, cwd=tmp_path)
    script = f"import corruptkit as ck; print(sum(len(batch) for batch in ck.open_dataset({str(overlay)!r}).batches()))"
    assert run_command(clean_python, "-c", script, cwd=tmp_path) == f"{ROWS}\n"
