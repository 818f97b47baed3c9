"""What each knob of a machine is worth: steps of the loop with it on and off, by turns, in one process.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/train/knobs.py [--rounds N] [--steps N] [--record]

On a GPU where there is one, else on the CPU, where tensor cores, the launch of kernels and copies from the host do not exist: what is worth
something there alone says so. A step without fused AdamW, or with an average in Python, is what the loop would be without them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from corruptkit_train import loop
from corruptkit_train.averages import Average
from corruptkit_train.conditions import ClassConditions
from corruptkit_train.config import RunConfig, parse_config
from corruptkit_train.models import build_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu import Latents
from results import describe_machine, publish

_CLASSES, _ROWS = 1000, 2048
_DIT = {"kind": "dit", "depth": 6, "width": 256, "heads": 8, "patch": 2}
_UNET = {"kind": "unet", "channels": [64, 128], "attention": [False, True], "layers": 1}


@contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another function in the place of the loop's own."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def plain_adamw(how: Any, denoiser: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(denoiser.parameters(), lr=how.rate, betas=how.betas, eps=how.epsilon, weight_decay=how.decay, foreach=False)


@torch.no_grad()
def average_each(average: Average, module: nn.Module) -> None:
    """The moving average, weight by weight."""
    keep = average.next_decay()
    for held, weight in zip(average.weights.values(), module.parameters(), strict=True):
        held.mul_(keep).add_(weight, alpha=1 - keep)
    average.updates += 1


# What it is, the network, the machine's table with it, fields of the run, and what stands in the place of the loop's own without it.
_KNOBS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], Callable[[], Any]]] = {
    "machine.compile, DiT": (_DIT, {"compile": True}, {}, nullcontext),
    "machine.checkpointing, DiT": (_DIT, {"checkpointing": True}, {}, nullcontext),
    "machine.checkpointing, UNet": (_UNET, {"checkpointing": True}, {}, nullcontext),
    "machine.channels_last, UNet": (_UNET, {"channels_last": True}, {}, nullcontext),
    "precision bf16, DiT": (_DIT, {}, {"precision": "bf16"}, nullcontext),
    "scaled_dot_product_attention, DiT": (_DIT, {}, {}, lambda: put(nn.functional, "scaled_dot_product_attention", attend)),
    "fused AdamW, DiT": (_DIT, {}, {}, lambda: put(loop, "make_optimiser", plain_adamw)),
    "foreach average, DiT": (_DIT, {}, {}, lambda: put(Average, "update", average_each)),
}


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention as three products."""
    return (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1) @ value


def describe_run(model: dict[str, Any], steps: int, machine: dict[str, Any], more: dict[str, Any], batch: int) -> RunConfig:
    table = {"images": steps * batch, "data": {"size": 16}, "condition": {"kind": "class"}, "model": model, "optimiser": {"batch": batch}}
    return parse_config(table | more | {"machine": {"report": max(1, steps // 3), **machine}}, "benchmark")


def time_step(config: RunConfig, home: Path) -> tuple[float, float]:
    """Seconds of a step, from the last lines of the log, and GiB of a GPU's memory at its most (0 on a CPU)."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    torch.compiler.reset()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    denoiser = build_model(config.model, shape=(4, 16, 16), classes=_CLASSES, seed=0)
    labels = torch.arange(_ROWS) % _CLASSES
    material = loop.Material(Latents((4, 16, 16), []), ClassConditions(lambda _: labels, _CLASSES, _ROWS))  # type: ignore[arg-type]
    with put(loop, "save_checkpoint", lambda out, *_: out):
        accelerator = Accelerator(mixed_precision="no", cpu=device == "cpu")
        loop.train_model(config, denoiser, material, loop.Home(home, {}), images=config.images, accelerator=accelerator)
    lines = [json.loads(line) for line in (home / "log.jsonl").read_text().splitlines()][1:]
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return statistics.median(config.optimiser.batch / line["images_per_s"] for line in lines), memory


def result_line(name: str, rounds: int, steps: int, batch: int, home: Path) -> str:
    model, machine, more, without = _KNOBS[name]
    found: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    for _ in range(rounds):
        off = {} if machine or more else machine
        with without():
            found["off"].append(time_step(describe_run(model, steps, off, {}, batch), home))
        found["on"].append(time_step(describe_run(model, steps, machine, more, batch), home))
    ratio = statistics.median(on[0] / off[0] for on, off in zip(found["on"], found["off"], strict=True))
    seconds = {state: statistics.median(value for value, _ in values) * 1e3 for state, values in found.items()}
    memory = " / ".join(f"{max(gib for _, gib in found[state]):.1f} GiB" for state in ("off", "on")) if found["on"][0][1] else "-"
    return f"| {name} | {seconds['off']:.1f} ms | {seconds['on']:.1f} ms | {ratio:.2f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a training step with each knob on and off.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--steps", type=int, default=9, help="steps a round of each (default 9)")
    parser.add_argument("--batch", type=int, default=32, help="images of a step (default 32)")
    parser.add_argument("--only", choices=_KNOBS, help="one knob (default: all)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    device = f"one {torch.cuda.get_device_name()}" if torch.cuda.is_available() else f"the CPU, {describe_machine()}"
    table = ["| knob | step without | step with | with / without | memory |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        for name in _KNOBS:
            if arguments.only in (None, name):
                table.append(result_line(name, arguments.rounds, arguments.steps, arguments.batch, Path(folder) / "run"))
                print(table[-1], flush=True)
    said = [f"On {device}; batches of {arguments.batch} latents of 4 x 16 x 16.", "", *table]
    command = f"`python benchmarks/train/knobs.py --rounds {arguments.rounds} --steps {arguments.steps} --batch {arguments.batch}`"
    publish("Knobs of a training step", command, said, record=arguments.record)


if __name__ == "__main__":
    main()
