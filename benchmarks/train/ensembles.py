"""What a model of an ensemble costs beside the same model trained alone, and how many images all its models see in a second.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/train/ensembles.py [--rounds N] [--record]

Both are taken from the runs' own logs, without the first lines: reading, draws, the pass forward and back, clipping, the update, the
average. Settings are data with 0, 5 and 20 % of labels flipped, CEP-U of two strengths, CEP-G and input noise, of several seeds each:
every model is a run of its own. One process on one thread, in float32.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import corruptkit as ck
from corruptkit_train.config import parse_config
from corruptkit_train.draws import draw_words
from corruptkit_train.ensemble import Member, train_ensemble
from corruptkit_train.run import train_run

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import publish
from rounds import state_aim

_ROWS, _CLASSES = 2000, 100
_SETTINGS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "clean": ("0", None),
    "flip-5": ("0.05", None),
    "flip-20": ("0.2", None),
    "cep-u-0.5": ("0", {"kind": "cep", "gamma": 0.5}),
    "cep-u-1": ("0", {"kind": "cep"}),
    "cep-g-1": ("0", {"kind": "cep", "distribution": "gaussian"}),
    "input": ("0", {"kind": "input"}),
}
_AIM, _RATE = 10, 20_000


@dataclass(frozen=True)
class _Size:
    model: dict[str, Any]
    side: int  # pixels
    batch: int
    seeds: int
    steps: int  # of the ensemble, a round
    alone: int  # steps of the model alone


_SIZES = {
    "MLP 2x32, 4 px (48 numbers)": _Size({"kind": "mlp", "width": 32, "depth": 2, "condition_width": 32}, 4, 16, 16, 60, 120),
    "MLP 3x64, 4 px": _Size({"kind": "mlp", "width": 64}, 4, 32, 8, 60, 120),
    "MLP 3x192, 4 px": _Size({"kind": "mlp", "width": 192}, 4, 128, 4, 16, 60),
    "DiT 2x32, 8 px, patch 4": _Size({"kind": "dit", "depth": 2, "width": 32, "heads": 2, "patch": 4}, 8, 16, 8, 40, 80),
}


def make_source(folder: Path, side: int) -> Path:
    """PNGs of noise with labels, in a tar."""
    folder.mkdir()
    pixels = (draw_words(0, "labels", torch.arange(_ROWS), side * side * 3) & 255).to(torch.uint8).view(_ROWS, side, side, 3).numpy()
    with tarfile.open(folder / "000.tar", "w") as tar:
        for number in range(_ROWS):
            held = io.BytesIO()
            Image.fromarray(pixels[number]).save(held, "PNG")
            for suffix, content in (("png", held.getvalue()), ("cls", str(number % _CLASSES).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return folder


def make_variants(source: Path, out: Path) -> dict[str, Path]:
    """The source, and an overlay for each ratio of flips."""
    dataset, found = ck.open_dataset(source), {"0": source}
    for ratio, _ in _SETTINGS.values():
        if ratio not in found:
            found[ratio] = out / f"flip-{ratio}.overlay"
            plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio=ratio)]), dataset.index())
            ck.write_variant(dataset, plan, found[ratio], "overlay")
    return found


def list_members(size: _Size, variants: dict[str, Path], steps: int) -> dict[str, Member]:
    found = {}
    for name, (ratio, perturbation) in _SETTINGS.items():
        for seed in range(size.seeds):
            table = {
                "seed": seed,
                "images": steps * size.batch,
                "data": {"size": size.side},
                "condition": {"kind": "class"},
                "perturbation": [perturbation] if perturbation else [],
                "model": size.model,
                "objective": {"kind": "v"},
                "optimiser": {"batch": size.batch},
                "sampler": {"steps": 2},
                "machine": {"report": max(1, steps // 5)},
            }
            found[f"{name}-{seed}"] = Member(parse_config(table, "benchmark"), variants[ratio])
    return found


def read_rate(out: Path) -> float:
    """Images a second of a run: the median over the lines of its log but the first."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][1:]
    return statistics.median(line["images_per_s"] for line in lines)


def time_size(size: _Size, rounds: int, folder: Path) -> tuple[list[float], list[float], int]:
    """Model-images a second of each round: of a CEP-U model alone, and of the ensemble; and how many models that has."""
    folder.mkdir()
    variants = make_variants(make_source(folder / "source", size.side), folder)
    alone, together = [], []
    members = list_members(size, variants, size.steps)
    one = list_members(size, variants, size.alone)["cep-u-1-0"]
    for _ in range(rounds):
        for name in ("alone", "ensemble"):
            shutil.rmtree(folder / name, ignore_errors=True)
        train_run(one.config, one.data, folder / "alone")
        alone.append(read_rate(folder / "alone"))
        train_ensemble(members, folder / "ensemble")
        together.append(read_rate(folder / "ensemble" / "clean-0") * len(members))
    return alone, together, len(members)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a model of an ensemble beside the same model alone.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--only", choices=_SIZES, help="one size (default: all)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = ["| model | batch | models | alone, images/s | together, model-images/s | times cheaper |", "|---|---|---|---|---|---|"]
    aims = []
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        for place, (name, size) in enumerate(_SIZES.items()):
            if arguments.only not in (None, name):
                continue
            alone, together, count = time_size(size, arguments.rounds, Path(folder) / str(place))
            ratio = statistics.median(mine / theirs for mine, theirs in zip(together, alone, strict=True))
            rate = statistics.median(together)
            table.append(f"| {name} | {size.batch} | {count} | {statistics.median(alone):,.0f} | {rate:,.0f} | {ratio:.1f} |")
            if not place:
                aims.append(state_aim(f"{name}: times cheaper a model than alone", ratio, _AIM, least=True))
            if "192" in name:
                aims.append(state_aim(f"{name}: model-images a second", rate, _RATE, least=True))
    command = f"`OMP_NUM_THREADS=1 python benchmarks/train/ensembles.py --rounds {arguments.rounds}`"
    publish("Ensembles", command, [*table, "", *aims], record=arguments.record)


if __name__ == "__main__":
    main()
