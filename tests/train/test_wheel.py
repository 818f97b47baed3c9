"""The wheel of corruptkit-train holds its package, the runs that ship, and the command."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from configparser import ConfigParser
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.test_wheel import REPOSITORY, install_quietly, run_command

pytestmark = pytest.mark.xdist_group("wheel")
TRAIN = REPOSITORY / "train"
INFO = "corruptkit_train-0.1.0.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    install_quietly(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, TRAIN)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_package_runs_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        runs = {name.rpartition("/")[2]: archive.read(name) for name in names if "/_runs/" in name}
        metadata = BytesParser().parsebytes(archive.read(f"{INFO}/METADATA"))
        points = ConfigParser()
        points.read_string(archive.read(f"{INFO}/entry_points.txt").decode())
    assert runs
    assert runs == {path.name: path.read_bytes() for path in (TRAIN / "runs").iterdir()}
    assert {name.partition("/")[0] for name in names} == {"corruptkit_train", INFO}
    modules = {path.relative_to(TRAIN).as_posix() for path in (TRAIN / "corruptkit_train").rglob("*.py")}
    assert modules | {"corruptkit_train/py.typed"} <= names
    assert dict(points["console_scripts"]) == {"corruptkit-train": "corruptkit_train.cli:main"}
    assert metadata["License-Expression"] == "Apache-2.0"
    required = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert required == set(tomllib.loads((TRAIN / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"])
    assert not [line for line in metadata.get_all("Requires-Dist", []) if line.startswith(("torchvision", "torch-fidelity"))]


def test_installed_runs_are_presets(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    install_quietly(sys.executable, "install", "--no-deps", "--target", place, wheel)
    script = (
        f"import sys; sys.path.insert(0, {str(place)!r}); from corruptkit_train.config import load_config, presets\n"
        f"assert all(str(path).startswith({str(place)!r}) for path in presets().values()), presets()\n"
        "assert 'autoencoder-openmoji' in presets('autoencoder')\n"
        "print(*(load_config(name).condition.kind for name in sorted(presets())))"
    )
    runs = [path.stem for path in sorted((TRAIN / "runs").iterdir()) if not path.stem.startswith("autoencoder-")]
    expected = " ".join("text" if name.endswith(("-text", "-cc3m")) else "class" for name in runs)
    assert run_command(sys.executable, "-c", script, cwd=tmp_path) == f"{expected}\n"
