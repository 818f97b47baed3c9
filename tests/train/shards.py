"""What test_distributed.py starts in two processes: a step in shards beside a step of the whole network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from corruptkit_train.averages import Average
from corruptkit_train.conditions import Condition
from corruptkit_train.draws import draw_normal
from corruptkit_train.loop import clip_gradient, make_optimiser
from corruptkit_train.models import build_model
from corruptkit_train.sharding import gather_tensors, local_parts
from corruptkit_train.step import TrainingStep, place_step
from tests.train.small import small_run

_UNET = {"kind": "unet", "channels": (8, 16), "attention": (False, True), "layers": 1, "norm_groups": 4, "heads": 2}


def count(tensors: Any) -> int:
    return sum(part.numel() for part in local_parts(list(tensors)))


def make_steps(kind: str, accelerator: Accelerator, *, sharded: bool) -> tuple[nn.Module, dict[str, Any]]:
    """Three steps over the same 8 images, of which each process sees a half."""
    table = small_run().model_dump(mode="json")
    config = type(small_run()).model_validate(
        table | ({"model": _UNET} if kind == "unet" else {}) | {"machine": {"sharding": "fsdp"}, "optimiser": {"batch": 8, "clip": 0.05}}
    )
    denoiser = build_model(config.model, shape=(3, 8, 8), classes=4, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in denoiser.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.02)  # a fresh network is the identity
    step = TrainingStep(denoiser, config, Condition(ids=torch.tensor([4]))).train()
    world, rank = (accelerator.num_processes, accelerator.process_index) if sharded else (1, 0)
    wrapped = place_step(step, config.machine, accelerator) if sharded else step
    optimiser, average = make_optimiser(config.optimiser, denoiser), Average(denoiser, 0.9)
    for turn in range(3):
        numbers = torch.arange(8 * turn, 8 * turn + 8).view(world, -1)[rank]
        clean = draw_normal(9, "start", numbers, (3, 8, 8))
        losses, _ = wrapped(clean, numbers, numbers, Condition(ids=numbers % 4))
        (losses.sum() * (world / 8)).backward()
        norm = clip_gradient(denoiser, config.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(denoiser)
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    held = {"weights": count(denoiser.parameters()), "average": count(average.weights.values()), "moments": count(moments)}
    return denoiser, held | {"norm": float(norm), "averaged": average.state()}


def main() -> None:
    accelerator = Accelerator(mixed_precision="no")
    found = {}
    for kind in ("dit", "unet"):
        sharded, held = make_steps(kind, accelerator, sharded=True)
        whole, other = make_steps(kind, accelerator, sharded=False)
        mine, theirs = gather_tensors(dict(sharded.named_parameters()), keep=True), dict(whole.named_parameters())
        apart = [float((mine[name] - theirs[name]).detach().norm() / theirs[name].detach().norm()) for name in theirs]
        apart += [float((held["averaged"][name] - value).norm() / value.norm()) for name, value in other["averaged"].items()]
        found[kind] = {name: held[name] for name in ("weights", "average", "moments")} | {
            "whole": other["weights"],
            "apart": max(apart),
            "norm_apart": abs(held["norm"] - other["norm"]) / other["norm"],
        }
    if accelerator.is_main_process:
        Path(sys.argv[1]).write_text(json.dumps(found))
    accelerator.end_training()


if __name__ == "__main__":
    main()
