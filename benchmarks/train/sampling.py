"""How fast guided samples are made, beside the same network in diffusers' own classes and loop, in float32.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/train/sampling.py [--rounds N] [--batch N] [--record]

Theirs is `DiTTransformer2DModel` in the loop of `DiTPipeline`: the batch doubled, label and null label told together, one call of the
network and one of the scheduler a step; no autoencoder. Both take 20 steps of DPM-Solver++ at scale 2, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from corruptkit_train.conditions import Condition
from corruptkit_train.draws import draw_normal
from corruptkit_train.models import DiTConfig, build_model
from corruptkit_train.models.convert import to_stock
from corruptkit_train.objectives import Noise
from corruptkit_train.sampling import SamplerConfig, Trained, make_scheduler, place_model, sample_latents

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import publish
from rounds import describe_times, find_ratio, state_aim, take_turns

_MODELS = {"DiT 6x256, 16 px": (6, 256, 16), "DiT 4x128, 16 px": (4, 128, 16), "DiT 4x128, 32 px": (4, 128, 32)}
_AIMED, _LEAST = "DiT 6x256, 16 px", 1.5
_STEPS, _SCALE, _CLASSES = 20, 2.0, 10


def build_network(depth: int, width: int, side: int) -> Any:
    network = build_model(DiTConfig(depth=depth, width=width, heads=width // 32, patch=4), shape=(3, side, side), classes=_CLASSES, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in network.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.02)  # a fresh network is the identity
    return network.eval().requires_grad_(requires_grad=False)


def sample_theirs(stock: Any, count: int, sampler: SamplerConfig) -> torch.Tensor:
    """As `DiTPipeline` does it, without its autoencoder."""
    scheduler = make_scheduler(Noise(), sampler)
    scheduler.set_timesteps(sampler.steps)
    start = draw_normal(0, "start", torch.arange(count), (3, stock.config.sample_size, stock.config.sample_size))
    sample = torch.cat((start, start))
    labels = torch.cat((torch.arange(count) % _CLASSES, torch.full((count,), _CLASSES)))
    for step in scheduler.timesteps:
        half = sample[:count]
        doubled = scheduler.scale_model_input(torch.cat((half, half)), step)
        output = stock(doubled, timestep=step.expand(len(doubled)), class_labels=labels).sample
        told, free = output.split(count)
        guided = free + _SCALE * (told - free)
        sample = scheduler.step(torch.cat((guided, guided)), step, sample).prev_sample
    return sample[:count]


def make_ours(depth: int, width: int, side: int, count: int, precision: Any) -> Callable[[], torch.Tensor]:
    sampler = SamplerConfig(steps=_STEPS, precision=precision)
    trained = place_model(Trained(build_network(depth, width, side), Noise(), Condition(ids=torch.tensor([_CLASSES]))), sampler, "cpu")
    numbers = torch.arange(count)
    condition = Condition(ids=numbers % _CLASSES)
    return lambda: sample_latents(trained, sampler, condition, numbers, seed=0, scales=(_SCALE,))[0]


def result_lines(name: str, rounds: int, count: int) -> list[str]:
    """The table of one network, and what it says of the aim."""
    shape = _MODELS[name]
    stock, sampler = to_stock(build_network(*shape)), SamplerConfig(steps=_STEPS)
    tasks: dict[str, Callable[[], torch.Tensor]] = {
        "diffusers, fp32": torch.no_grad()(lambda: sample_theirs(stock, count, sampler)),
        "ours, fp32": make_ours(*shape, count, "fp32"),
        "ours, bf16": make_ours(*shape, count, "bf16"),
    }
    ends = {what: task() for what, task in tasks.items()}
    assert torch.allclose(ends["diffusers, fp32"], ends["ours, fp32"], rtol=1e-3, atol=1e-3 * float(ends["ours, fp32"].abs().max()))
    seconds = take_turns(tasks, rounds)
    rates = {what: f"{count / statistics.median(values):.0f} images/s" for what, values in seconds.items()}
    ratios = {what: find_ratio(seconds, "diffusers, fp32", what) for what in ("ours, fp32", "ours, bf16")}
    aims = [state_aim(f"{what}: images a second, ours / theirs", ratio, _LEAST, least=True) for what, ratio in ratios.items()]
    table = describe_times(seconds, "diffusers, fp32", rates)
    return [f"{name}, patch 4, {count} images, {rounds} rounds", "", *table, "", *([*aims, ""] if name == _AIMED else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time guided sampling beside diffusers.")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--batch", type=int, default=64, help="images (default 64)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    body = [line for name in _MODELS for line in result_lines(name, arguments.rounds, arguments.batch)]
    command = f"`OMP_NUM_THREADS=1 python benchmarks/train/sampling.py --rounds {arguments.rounds} --batch {arguments.batch}`"
    publish("Sampling", command, body[:-1], record=arguments.record)


if __name__ == "__main__":
    main()
