"""What a machine's knobs may not change: the gradient, but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from corruptkit_train import sharding
from corruptkit_train.conditions import Condition
from corruptkit_train.config import MachineConfig
from corruptkit_train.draws import draw_normal
from corruptkit_train.models import PixelUNetConfig, UNetConfig, build_model
from corruptkit_train.models.dit import Mlp
from corruptkit_train.run import train_run
from corruptkit_train.step import TrainingStep, place_step
from tests.train.small import small_run, write_pictures

_SHAPE: dict[str, Any] = {"channels": (8, 16), "attention": (False, True), "layers": 1, "norm_groups": 4}
MODELS = {
    "dit": small_run().model,
    "unet": UNetConfig(**_SHAPE, heads=2, condition_width=8),
    "pixel-unet": PixelUNetConfig(**_SHAPE, head_width=8),
}


def gradients(model: str, **knobs: Any) -> dict[str, torch.Tensor]:
    config = small_run(objective={"kind": "v"})
    denoiser: Any = build_model(MODELS[model], shape=(3, 8, 8), classes=4, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in denoiser.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.02)  # a fresh network is the identity
    step = TrainingStep(denoiser, config, Condition(ids=torch.tensor([4]))).train()
    wrapped = place_step(step, MachineConfig(**knobs), Accelerator(cpu=True))
    numbers = torch.arange(8)
    losses, _ = wrapped(draw_normal(0, "start", numbers, (3, 8, 8)), numbers, numbers, Condition(ids=numbers % 4))
    losses.sum().backward()
    return {name: weight.grad for name, weight in denoiser.named_parameters()}


# torch's capture asks every tensor for its gradient, and a test that makes warnings errors sees it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed:UserWarning")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("knob", ["checkpointing", "channels_last", "compile"])
def test_a_knob_changes_no_gradient(monkeypatch: pytest.MonkeyPatch, model: str, knob: str) -> None:
    known, calls, compiler = gradients(model), [], torch.compile

    def compile_quickly(forward: Any, **how: Any) -> Any:
        """Whole graphs, as they are captured, but without the C++ compiler."""
        calls.append(how)
        return compiler(forward, backend="eager", **how)

    monkeypatch.setattr(sharding.torch, "compile", compile_quickly)
    found = gradients(model, **{knob: True})
    assert found.keys() == known.keys()
    for name, gradient in known.items():
        assert gradient is not None, name
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max() + 1)), name
    if knob == "compile":
        assert len(calls) == (2 if model == "dit" else 5)
        assert all(how == {"fullgraph": True, "dynamic": False} for how in calls)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor is being accessed:UserWarning")
def test_networks_are_compiled_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch compiles a function for eight shapes at most: four networks of three levels each are more."""
    compiler = torch.compile
    monkeypatch.setattr(sharding.torch, "compile", lambda forward, **how: compiler(forward, backend="eager", **how))
    config = UNetConfig(channels=(4, 8, 16), attention=(True, True, True), layers=1, norm_groups=4, heads=1, condition_width=8)
    for count in (1, 2, 3, 4):
        denoiser: Any = build_model(config, shape=(3, 8, 8), classes=4, seed=0)
        sharding.compile_regions(denoiser)
        told = denoiser.embed(Condition(ids=torch.zeros(count, dtype=torch.int64)))
        denoiser(torch.zeros(count, 3, 8, 8), torch.zeros(count), told).sum().backward()


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_convolutions_are_of_the_precision_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """torch has TF32 on for them unless it is told otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision == "fp32")
    train_run(small_run(images=16, precision=precision), write_pictures(tmp_path / "src"), tmp_path / "run")
    assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")


@pytest.mark.parametrize("model", MODELS)
def test_checkpointing_keeps_less(model: str) -> None:
    """What the forward pass saves for the way back is fewer bytes."""
    sizes = []
    for checkpointing in (False, True):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (saved.append(tensor.nbytes), tensor)[1], lambda tensor: tensor):  # noqa: B023
            gradients(model, checkpointing=checkpointing)
        sizes.append(sum(saved))
    assert sizes[1] < 0.7 * sizes[0]


def test_a_fused_kernel_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no gradient is asked for, the MLP's first matrix and its GELU are one kernel; the sum of many blocks stays the same to 1e-5."""
    mlp, calls = Mlp(64), []
    tokens = draw_normal(0, "start", torch.arange(6), (10, 64))
    known = mlp(tokens).detach()
    fused = torch.ops.mkldnn._linear_pointwise

    class Kernels:
        def _linear_pointwise(self, *given: Any) -> Any:
            calls.append(given)
            return fused(*given)

    monkeypatch.setattr(torch.ops, "mkldnn", Kernels())
    mlp(tokens)
    assert calls == []
    with torch.no_grad():
        assert torch.allclose(mlp(tokens), known, rtol=1e-5, atol=1e-6)
        assert torch.equal(mlp(tokens.transpose(0, 1)).transpose(0, 1), mlp(tokens))
        assert len(calls) == 3
        with torch.autocast("cpu", torch.bfloat16):
            mlp(tokens)
        mlp.double()(tokens.double())
    assert len(calls) == 3
