"""The paper's three systems at full size on a CPU: peak memory, and seconds of a training step.

    .venv/bin/python benchmarks/train/full_size.py [--steps 20] [--batch 1] [--only NAME] [--record]

Each is its preset, in float32, with the real step, AdamW and moving average, on latents drawn here; BERT is BERT-base's size with random
weights, told captions of random words. One process for each, one after another, so that a peak is its own. The largest needs 14 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from corruptkit_train.averages import Average
from corruptkit_train.conditions import Condition
from corruptkit_train.config import RunConfig, load_config
from corruptkit_train.draws import draw_normal, draw_words
from corruptkit_train.loop import clip_gradient, make_optimiser
from corruptkit_train.meter import count_flops
from corruptkit_train.models import build_model
from corruptkit_train.models.unet import TrainedText
from corruptkit_train.step import TrainingStep

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import publish

SHAPES = {"paper-ldm4-in1k": (3, 64, 64), "paper-ldm4-cc3m": (3, 64, 64), "paper-dit-xl2-in1k": (4, 32, 32)}
_CLASSES, _WORDS = 1000, 30_522


def build_system(name: str) -> tuple[RunConfig, Any, Condition]:
    """A preset's configuration, its network, and a null condition."""
    config = load_config(name, ["precision=fp32"])
    if config.condition.kind == "class":
        network: Any = build_model(config.model, shape=SHAPES[name], classes=_CLASSES, seed=0)
        return config, network, Condition(ids=torch.tensor([_CLASSES]))
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        text = TrainedText(BertModel(BertConfig(), add_pooling_layer=False), mask_padding=False)
    network = build_model(config.model, shape=SHAPES[name], text_width=768, tokens=True, text=text, seed=0)
    null = torch.zeros(1, config.condition.encoder.max_tokens, dtype=torch.int64)
    return config, network, Condition(words=null, mask=null == 1)


def draw_conditions(null: Condition, numbers: torch.Tensor) -> Condition:
    """A class each, or the ids of 77 words."""
    if null.ids is not None:
        return Condition(ids=draw_words(0, "labels", numbers, 1).flatten() % _CLASSES)
    assert null.words is not None
    words = draw_words(0, "labels", numbers, null.words.shape[1]) % _WORDS
    return Condition(words=words, mask=torch.ones_like(words, dtype=torch.bool))


def measure_system(name: str, steps: int, batch: int) -> dict[str, Any]:
    """Train some steps; weights, FLOPs, seconds of each step, and this process's peak of memory in GB."""
    config, network, null = build_system(name)
    step = TrainingStep(network, config, null).train()
    optimiser, average = make_optimiser(config.optimiser, network), Average(network, config.average.decay, warmup=config.average.warmup)
    seconds, losses = [], []
    for turn in range(steps):
        started = time.perf_counter()
        numbers = torch.arange(turn * batch, (turn + 1) * batch)
        clean = draw_normal(0, "noise", numbers, SHAPES[name])
        loss, _ = step(clean, numbers, numbers, draw_conditions(null, numbers))
        loss.mean().backward()
        clip_gradient(network, config.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        average.update(network)
        seconds.append(time.perf_counter() - started)
        losses.append(float(loss.detach().mean()))
        print(f"{name} step {turn + 1} of {steps}: loss {losses[-1]:.3f}, {seconds[-1]:.1f} s", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    weights = sum(weight.numel() for weight in network.parameters())
    flops = count_flops(network, null, torch.device("cpu"))
    found = {"weights": weights, "flops": flops, "seconds": statistics.median(seconds), "peak": peak}
    return found | {"losses": losses, "threads": torch.get_num_threads()}


def describe_results(found: dict[str, dict[str, Any]], steps: int, batch: int) -> list[str]:
    """The table, and what it says."""
    lines = [f"{steps} steps of {batch} in float32 with AdamW and the moving average; medians of all steps; peak of resident memory.", ""]
    lines += ["| preset | weights | GFLOP an image's step | seconds a step | peak GB | bytes a weight | loss, first and last |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, one in found.items():
        cells = [f"`{name}`", f"{one['weights'] / 1e6:,.1f} M", f"{one['flops'] / 1e9:,.0f}", f"{one['seconds']:.1f}", f"{one['peak']:.1f}"]
        cells += [f"{one['peak'] * 1e9 / one['weights']:.1f}", f"{one['losses'][0]:.3f}, {one['losses'][-1]:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--here", choices=SHAPES, help=argparse.SUPPRESS)  # measured in this process
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure_system(args.here, args.steps, args.batch)))
        return 0
    found = {}
    for name in [args.only] if args.only else SHAPES:
        line = [sys.executable, __file__, "--here", name, "--steps", str(args.steps), "--batch", str(args.batch)]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return done.returncode
        found[name] = json.loads(done.stdout.splitlines()[-1])
    wrong = [name for name, one in found.items() if not all(map(torch.isfinite, torch.tensor(one["losses"])))]
    command = f"`python benchmarks/train/full_size.py --steps {args.steps} --batch {args.batch}`"
    publish("The paper's systems at full size on a CPU", command, describe_results(found, args.steps, args.batch), record=args.record)
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
