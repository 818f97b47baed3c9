from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)

import corruptkit as ck
from corruptkit_train.models import build_model
from corruptkit_train.models.dit import DiT
from corruptkit_train.pipelines import ConditionalPipeline, Settings, export_stock, make_pipeline, save_pipeline
from tests.train.networks import DIT, KINDS, build_kind, wake_weights
from tests.train.pipelines.parts import load_tiny

torch.set_num_threads(1)
NAMES = ["cat", "dog", "boat, ship", "mer"]
# What a person with diffusers alone does: opens each folder, makes images, and saves and opens it once more.
OPEN_ALL = """
import json, sys
from pathlib import Path
sys.modules["corruptkit_train"] = sys.modules["corruptkit"] = None
import numpy as np
from diffusers import DiffusionPipeline
root, out = Path(sys.argv[1]), {}
for folder in sorted(root.iterdir()):
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    for name in ("first", "again"):
        pipeline.set_progress_bar_config(disable=True)
        told = {"prompt": ["red apple", ""]} if pipeline.classes is None else {"class_labels": ["boat, ship", 0]}
        out[f"{folder.name} {name}"] = pipeline(**told, seeds=[1, 2], num_inference_steps=3, output_type="np").images
        if name == "first":
            again = Path(sys.argv[2]) / folder.name
            pipeline.save_pretrained(again)
            pipeline = DiffusionPipeline.from_pretrained(again, trust_remote_code=True)
assert not any(name.startswith("corruptkit_train.") for name in sys.modules)
np.savez(sys.argv[3], **out)
"""


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save_kind(kind: str, folder: Path, **more: Any) -> None:
    settings = Settings("flow", guidance_scale=1.5, info={"variant_id": "abc", "images": 1000})
    condition = None if KINDS[kind][1] is None else NAMES
    parts = {"scheduler": FlowMatchEulerDiscreteScheduler(), "settings": settings, "condition": condition}
    save_pipeline(build_kind(kind), folder, **parts | more)


def make_images(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    told = {"prompt": ["red apple", ""]} if pipeline.classes is None else {"class_labels": ["boat, ship", 0]}
    return pipeline(**told, seeds=[1, 2], num_inference_steps=3, output_type="np").images


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A folder of every kind, one with an autoencoder too."""
    root = tmp_path_factory.mktemp("saved")
    for kind, (_, classes, _, tokens) in KINDS.items():
        text = {} if classes else {"condition": load_tiny(tiny, "tokens" if tokens else "pooled")}
        save_kind(kind, root / kind, **text)
    blocks: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    autoencoder = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=3)
    save_kind("dit-class", root / "dit-latent", autoencoder=wake_weights(autoencoder))
    return root


def test_folders_open_with_diffusers_alone(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    homes = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment = os.environ | homes | {"PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", OPEN_ALL, saved, again, tmp_path / "images.npz"]
    ran = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    with np.load(tmp_path / "images.npz") as images:
        assert len(images.files) == 2 * (len(KINDS) + 1)
        for name in images.files:
            here = make_images(ConditionalPipeline.from_pretrained(saved / name.split()[0]))
            assert np.abs(images[name] - here).max() <= 1e-5, name  # another process
            assert here.std() > 0.05
            assert here.shape == (2, 16, 16, 3) if "latent" in name else (2, 8, 8, 3)
    # The second saving says the same, and carries the same code.
    for folder in saved.iterdir():
        first, second = (json.loads((root / folder.name / "model_index.json").read_text()) for root in (saved, again))
        assert first == second
        for code in folder.rglob("*.py"):
            assert (again / code.relative_to(saved)).read_bytes() == code.read_bytes()


@pytest.mark.parametrize("kind", ["dit-class", "unet-class"])
def test_the_package_opens_a_folder_without_running_its_code(saved: Path, tmp_path: Path, kind: str) -> None:
    save_kind(kind, tmp_path / "evil")
    codes = list((tmp_path / "evil").rglob("*.py"))
    assert len(codes) == 2
    for code in codes:
        code.write_text(f"raise SystemExit({str(code)!r})")
    pipeline = ConditionalPipeline.from_pretrained(tmp_path / "evil")
    assert type(pipeline) is ConditionalPipeline
    assert np.array_equal(make_images(pipeline), make_images(ConditionalPipeline.from_pretrained(saved / kind)))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(tmp_path / "evil")


@pytest.mark.parametrize("kind", KINDS)
def test_opening_warns_of_nothing(saved: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    ConditionalPipeline.from_pretrained(saved / kind)
    assert not caplog.records


def test_what_was_saved_comes_back(saved: Path) -> None:
    pipeline = ConditionalPipeline.from_pretrained(saved / "unet-class")
    assert pipeline.config.id2label == dict(enumerate(NAMES))
    assert pipeline.find_ids(["boat, ship", "mer"]) == [2, 3]
    assert pipeline.config.info == {"variant_id": "abc", "images": 1000}
    assert (pipeline.config.objective, pipeline.config.guidance_scale, pipeline.classes) == ("flow", 1.5, 4)
    before, after = build_kind("unet-class").state_dict(), pipeline.class_embedder.state_dict()
    assert torch.equal(before["class_embedder.table.weight"], after["table.weight"])
    index = json.loads((saved / "unet-class" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "ConditionalPipeline"]
    assert index["class_embedder"] == ["corruptkit_class_embedder", "ClassEmbedder"]
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]


def test_a_folder_names_no_place_it_was_opened_from(saved: Path, tmp_path: Path) -> None:
    ConditionalPipeline.from_pretrained(saved / "dit-class").save_pretrained(tmp_path / "again")
    assert str(saved) not in (tmp_path / "again" / "model_index.json").read_text()


def test_code_that_travels_needs_no_package_of_ours(saved: Path) -> None:
    for code in saved.rglob("*.py"):
        assert "import corruptkit" not in code.read_text()
        assert "from corruptkit" not in code.read_text()


def test_a_folder_appears_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "model"
    save_kind("dit-class", target)
    with pytest.raises(ck.ConflictError) as caught:
        save_kind("dit-class", target)
    assert str(caught.value) == f"{target}: something lies there, expected a new folder; choose another, or say replace"
    before = {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()}

    def fail_late(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(DDPMScheduler, "save_pretrained", fail_late)
        with pytest.raises(OSError, match="No space left"):
            save_kind("dit-class", target, replace=True, scheduler=DDPMScheduler(), settings=Settings("eps"))
    assert {path.relative_to(target): path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert list_names(target.parent) == ["model"]
    save_kind("dit-class", target, replace=True, settings=Settings("flow", steps=7))
    assert ConditionalPipeline.from_pretrained(target).config.num_inference_steps == 7
    assert list_names(target.parent) == ["model"]


def test_a_killed_saving_is_swept_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "half").write_text("")
    save_kind("dit-class", target)
    assert list_names(tmp_path) == ["model"]
    # Killed between the two renames: the old folder comes back, even if the new one fails.
    target.rename(tmp_path / ".model.old")
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_kind("dit-class", target, replace=True, settings=Settings("flow", info={"what": object()}))
    assert list_names(tmp_path) == ["model"]
    assert make_images(ConditionalPipeline.from_pretrained(target)).shape == (2, 8, 8, 3)
    save_kind("unet-class", target, replace=True)
    assert list_names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    ("kind", "condition", "message"),
    [
        ("dit-class", lambda _: ["cat"], "1 class names, expected 4 class names"),
        ("dit-text", lambda _: ["cat"], "1 class names, expected a text encoder"),
        ("dit-text", lambda _: None, "no condition, expected a text encoder"),
        ("dit-class", lambda tiny: load_tiny(tiny, "pooled"), "an encoder of width 32, expected class names"),
        ("dit-text", lambda tiny: replace(load_tiny(tiny, "pooled"), width=31), "an encoder of width 31, expected text states of width 32"),
    ],
)
def test_parts_that_do_not_fit_are_refused(kind: str, condition: Callable[[Path], Any], message: str, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ck.CatalogError) as caught:
        save_kind(kind, tmp_path / "model", condition=condition(tiny))
    assert str(caught.value) == f"pipeline: {message}; give what the network was built for"
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ck.CatalogError, match="scheduler: found DDIMScheduler for epsilon, expected flow_prediction"):
        save_kind("dit-class", tmp_path / "model", scheduler=DDIMScheduler())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("learned", [False, True])
def test_the_stock_pipeline_makes_the_same_images(tmp_path: Path, learned: bool) -> None:
    # Its null id is 1000, so that guidance needs as many classes.
    network = wake_weights(
        build_model(DIT.model_copy(update={"learned_variance": learned}), shape=(4, 8, 8), classes=1000, seed=0),
    )
    assert isinstance(network, DiT)
    export_stock(network, tmp_path)
    blocks: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = wake_weights(AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4))
    scheduler = DDIMScheduler(clip_sample=False)
    stock = DiTPipeline(DiTTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer"), vae, scheduler)
    ours = make_pipeline(network, scheduler=scheduler, settings=Settings("eps"), condition=None, autoencoder=vae)
    for pipeline in (stock, ours):
        pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"class_labels": [7, 207], "guidance_scale": 3.0, "num_inference_steps": 3}
    theirs = stock(**arguments, generator=torch.Generator().manual_seed(4), output_type="np").images
    mine = ours(**arguments, generator=torch.Generator().manual_seed(4), output_type="np").images
    assert theirs.std() > 0.02
    assert np.abs(theirs - mine).max() <= 1e-5
    with pytest.raises(ck.ConflictError):
        export_stock(network, tmp_path)
