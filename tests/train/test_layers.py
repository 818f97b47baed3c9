"""Imports of corruptkit_train go down only, it uses public names of corruptkit alone, and torchvision is nowhere."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from tests.test_layers import REPOSITORY, Rules, imported_names, module_names, package_problems

PACKAGE = REPOSITORY / "train" / "corruptkit_train"
BANNED = {"torchvision", "torch_fidelity"}
RULES = Rules(
    layers=(
        {"__main__", "cli", "commands"},
        {"autoencoder_training", "ensemble", "latent_cache", "run", "samples", "trained"},
        {"cost", "ensemble_sampling", "grids", "loop", "stacks", "step"},
        {"config", "meter"},
        {"sampling"},
        {"pipelines"},
        {"models"},
        {"conditions", "latents"},
        {"autoencoders", "caption_cache", "columns", "encoders", "images", "objectives", "perturbation", "words"},
        {"averages", "checkpoint", "draws", "latent_shards", "pretrained", "sharding"},
    ),
    foreign=BANNED | {"pipelines", "tests", "train"},
)
# What of corruptkit is for others; "" is its root, which names what is public.
PUBLIC = {"", "engines", "errors", "files", "terminal"}


def private_names(package: Path) -> list[str]:
    """Where a module imports what of corruptkit is its own."""
    library = module_names(REPOSITORY / "corruptkit").keys()
    found = []
    for user, path in module_names(package).items():
        for name, line in imported_names(ast.parse(path.read_bytes())):
            head, _, rest = name.partition(".")
            module = rest.partition(".")[0] if rest.partition(".")[0] in library else ""
            if head == "corruptkit" and module not in PUBLIC:
                found.append(f"{user}:{line} imports {name}")
    return found


def test_imports_go_down_only() -> None:
    assert package_problems(PACKAGE, RULES) == []


def test_the_graph_was_read() -> None:
    assert {"cli", "loop", "models.dit", "pipelines.saving"} <= module_names(PACKAGE).keys()
    assert sum(map(len, RULES.layers)) == len({name.partition(".")[0] for name in module_names(PACKAGE)} - {""}), "a room that is none"


def test_public_names_of_corruptkit_alone() -> None:
    assert private_names(PACKAGE) == []


def test_contributing_states_the_layers() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    for layer in RULES.layers:
        assert f"\n    {', '.join(sorted(layer))}\n" in text
    stated = re.search(r"public names of corruptkit alone: (.*?)\.\s", text, re.DOTALL)
    assert stated is not None
    assert set(re.findall(r"`([a-z.]+)`", stated[1])) == {f"corruptkit.{name}".rstrip(".") for name in PUBLIC}


def grow_package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "corruptkit_train"
    sound = {"__init__.py": "", "loop.py": "from corruptkit_train.config import RunConfig", "config.py": "import corruptkit as ck"}
    for name, text in (sound | files).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text, "utf-8")
    return package


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.py", "def read():\n    from corruptkit_train.loop import train_model", "config:2 imports loop, which lies above it"),
        ("models/unet.py", "from torchvision import models", "models.unet:1 imports torchvision.models"),
        ("images.py", "import torch_fidelity", "images:1 imports torch_fidelity"),
        ("helpers.py", "", "helpers has no place in the layers"),
    ],
)
def test_the_checker_finds(tmp_path: Path, name: str, text: str, said: str) -> None:
    assert any(said in problem for problem in package_problems(grow_package(tmp_path, {name: text}), RULES))


@pytest.mark.parametrize("text", ["from corruptkit.plan import make_plan", "from corruptkit import plan", "import corruptkit.plan"])
def test_the_checker_finds_private_names(tmp_path: Path, text: str) -> None:
    assert private_names(grow_package(tmp_path, {})) == []
    assert private_names(grow_package(tmp_path, {"images.py": text})), text


def test_torchvision_is_imported_nowhere() -> None:
    rooms = [REPOSITORY / name for name in ("benchmarks", "corruptkit", "docs", "pipelines", "tests", "train")]
    files = [path for room in rooms for path in room.rglob("*.py")]
    assert len(files) > 100
    found = {str(path) for path in files for name, _ in imported_names(ast.parse(path.read_bytes())) if name.partition(".")[0] in BANNED}
    assert found == set()


def test_the_environment_holds_no_torchvision() -> None:
    assert [name for name in sorted(BANNED) if importlib.util.find_spec(name) is not None] == []
    from diffusers import UNet2DModel  # what a torchvision for another torch breaks

    assert UNet2DModel.__name__ == "UNet2DModel"
