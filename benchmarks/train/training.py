"""What a training step costs beside the bare forward, backward and optimiser of the same model, and how long it waits for data.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/train/training.py [--rounds N] [--steps N] [--record]

Ours is the loop itself, taken from its own log: reading and flipping images, draws of noise, time and dropout, perturbation (CEP-U),
clipping, the moving average, logging. The bare step has its batch ready and does none of these. One process on one thread, batches of 128.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

import corruptkit as ck
from corruptkit_train.conditions import Condition, open_conditions
from corruptkit_train.config import RunConfig, parse_config
from corruptkit_train.draws import draw_normal, draw_words
from corruptkit_train.images import Pictures
from corruptkit_train.loop import Home, Material, make_optimiser, train_model
from corruptkit_train.trained import make_denoiser

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import publish
from rounds import state_aim

_BATCH, _ROWS, _CLASSES = 128, 4096, 10
_MODELS = {"DiT 4x128, 16 px": (4, 128, 16), "DiT 4x128, 32 px": (4, 128, 32), "DiT 6x256, 32 px": (6, 256, 32)}
_LIMIT, _WAIT = 1.03, 0.02


def make_source(folder: Path, side: int) -> Path:
    """PNGs of noise with labels, in tars."""
    folder.mkdir()
    pixels = (draw_words(0, "labels", torch.arange(_ROWS), side * side * 3) & 255).to(torch.uint8).view(_ROWS, side, side, 3).numpy()
    for start in range(0, _ROWS, 1024):
        with tarfile.open(folder / f"{start:06d}.tar", "w") as tar:
            for number in range(start, start + 1024):
                held = io.BytesIO()
                Image.fromarray(pixels[number]).save(held, "PNG")
                for suffix, content in (("png", held.getvalue()), ("cls", str(number % _CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def describe_run(depth: int, width: int, side: int, steps: int, **machine: Any) -> RunConfig:
    table = {
        "images": steps * _BATCH,
        "data": {"size": side, "flip": True},
        "condition": {"kind": "class"},
        "perturbation": [{"kind": "cep"}],
        "model": {"kind": "dit", "depth": depth, "width": width, "heads": width // 32, "patch": 4},
        "objective": {"kind": "v"},
        "optimiser": {"batch": _BATCH},
        "machine": {"report": max(1, steps // 4), **machine},
    }
    return parse_config(table, "benchmark")


def time_ours(config: RunConfig, source: Path, out: Path, *, keep: bool) -> tuple[float, float]:
    """Seconds of a step of the loop and its share of waiting, from all lines of its log but the first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    dataset = ck.open_dataset(source)
    conditions = open_conditions(config.condition, dataset, out / "captions")
    material = Material(Pictures(dataset, config.data, keep=keep), conditions)
    accelerator = Accelerator(cpu=True)
    train_model(config, make_denoiser(config, conditions), material, Home(out, {}), images=config.images, accelerator=accelerator)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][1:]
    return statistics.median(_BATCH / line["images_per_s"] for line in lines), statistics.median(line["data_wait"] for line in lines)


def time_bare(config: RunConfig, source: Path, steps: int) -> float:
    """Seconds of a step without anything around it."""
    denoiser = make_denoiser(config, open_conditions(config.condition, ck.open_dataset(source), Path()))
    optimiser = make_optimiser(config.optimiser, denoiser)
    clean = draw_normal(0, "noise", torch.arange(_BATCH), denoiser.sample_shape)
    told, times = Condition(ids=torch.arange(_BATCH) % _CLASSES), torch.arange(_BATCH) * 7
    taken = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = (denoiser(clean, times, denoiser.embed(told)) - clean).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        taken.append(time.perf_counter() - start)
    # As the log has it: the mean of each few steps, the first few left out.
    few = config.machine.report
    return statistics.median(statistics.mean(taken[start : start + few]) for start in range(few, steps, few))


def result_lines(name: str, rounds: int, steps: int, folder: Path) -> tuple[str, list[str]]:
    """A line of the table, and whether the aims are met."""
    depth, width, side = _MODELS[name]
    source = make_source(folder / f"{side}-{width}", side)
    held, read = (describe_run(depth, width, side, steps, workers=workers) for workers in (0, 1))
    bare, ours, waits, waits_read = [], [], [], []
    for _ in range(rounds):
        bare.append(time_bare(held, source, steps))
        seconds, wait = time_ours(held, source, folder / "run", keep=True)
        ours.append(seconds)
        waits.append(wait)
        waits_read.append(time_ours(read, source, folder / "run", keep=False)[1])
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, bare, strict=True))
    wait, wait_read = statistics.median(waits), statistics.median(waits_read)
    line = f"| {name} | {np.median(bare) * 1e3:.1f} ms | {np.median(ours) * 1e3:.1f} ms | {ratio:.3f} | {wait:.2%} | {wait_read:.2%} |"
    return line, [
        state_aim(f"{name}: our step / the bare step", ratio, _LIMIT),
        state_aim(f"{name}: percent of waiting, images in memory", 100 * wait, 100 * _WAIT),
        state_aim(f"{name}: percent of waiting, tars and a worker", 100 * wait_read, 100 * _WAIT),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a training step beside the bare one.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--steps", type=int, default=16, help="steps a round of each (default 16)")
    parser.add_argument("--only", choices=_MODELS, help="one model (default: all)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = "| model, patch 4, RGB | bare step | our step | ours / bare | waiting, in memory | waiting, tars and a worker |"
    table = [head, "|---|---|---|---|---|---|"]
    aims: list[str] = []
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        for name in _MODELS:
            if arguments.only in (None, name):
                line, stated = result_lines(name, arguments.rounds, arguments.steps, Path(folder))
                table.append(line)
                aims += stated
    command = f"`OMP_NUM_THREADS=1 python benchmarks/train/training.py --rounds {arguments.rounds} --steps {arguments.steps}`"
    publish("A training step", command, [*table, "", *aims], record=arguments.record)


if __name__ == "__main__":
    main()
