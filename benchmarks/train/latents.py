"""Cached latents beside a plain loop that decodes and encodes its images in each step; how large a cache is, and how fast it is read.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/train/latents.py [--rounds N] [--steps N] [--record]

Both train one DiT with one batch on latents of an autoencoder of sd-vae's shape (random weights). The plain loop is written as public
trainers write it: one file a sample, Pillow in one worker of a DataLoader, the autoencoder and its draw in the step, AdamW, a moving
average in a loop over the weights. Ours is the loop itself, on a cache, taken from its own log. One process on one thread.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from xxhash import xxh3_128_digest

import corruptkit as ck
from corruptkit_train.autoencoders import load_autoencoder
from corruptkit_train.conditions import Condition, open_conditions
from corruptkit_train.config import RunConfig, parse_config
from corruptkit_train.draws import draw_normal, draw_words
from corruptkit_train.latent_cache import make_cache
from corruptkit_train.latent_shards import MANIFEST, CacheManifest, Stated, keys_sha256, pack_keys, write_shard
from corruptkit_train.latents import Latents
from corruptkit_train.loop import Home, Material, train_model
from corruptkit_train.trained import make_denoiser

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import publish
from rounds import state_aim

_BATCH, _ROWS, _CLASSES, _SIDE = 16, 64, 4, 64
_MODELS = ("DiT-S/2", "DiT-B/2")
_TIMES, _WAIT = 3.0, 0.02  # aims; for the first model
_HELD, _READ = 16384, 256  # rows of the cache that is read, and of a batch


def save_shape(folder: Path, *channels: int) -> Path:
    """An AutoencoderKL of sd-vae's shape (its widths: 128, 256, 512, 512) with random weights."""
    count = len(channels)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        diffusers.AutoencoderKL(block_out_channels=channels, layers_per_block=2, latent_channels=4, **blocks).save_pretrained(folder)
    return folder


def make_files(folder: Path) -> Path:
    """JPEGs of 256 pixels a side, a file each, in folders of classes."""
    words = draw_words(0, "labels", torch.arange(_ROWS), 8 * 8 * 3).remainder(256).to(torch.uint8).view(_ROWS, 8, 8, 3).numpy()
    for number, pixels in enumerate(words):
        place = folder / f"class{number % _CLASSES}" / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(place)
    return folder


def describe_run(model: str, autoencoder: Path, steps: int) -> RunConfig:
    table = {
        "images": steps * _BATCH,
        "data": {"size": _SIDE, "flip": True},
        "latents": {"autoencoder": str(autoencoder)},
        "condition": {"kind": "class"},
        "model": {"kind": "dit", "preset": model},
        "optimiser": {"batch": _BATCH, "clip": 0},
        "machine": {"report": 1, "hold": 0},
    }
    return parse_config(table, "benchmark")


def open_cache(config: RunConfig, source: Path, cache: Path) -> Latents:
    assert config.latents is not None
    return Latents(cache, ck.open_dataset(source), config.data, config.latents, load_autoencoder(config.latents))


def time_ours(config: RunConfig, source: Path, pictures: Latents, out: Path) -> tuple[float, float]:
    """Seconds of a step of the loop and its share of waiting, from all lines of its log but the first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    conditions = open_conditions(config.condition, ck.open_dataset(source), out / "captions")
    denoiser = make_denoiser(config, conditions, pictures.manifest.shape[1:])
    home = Home(out, {})
    train_model(config, denoiser, Material(pictures, conditions), home, images=config.images, accelerator=Accelerator(cpu=True))
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][1:]
    return statistics.median(_BATCH / line["images_per_s"] for line in lines), statistics.median(line["data_wait"] for line in lines)


class Files(Dataset):  # type: ignore[type-arg] # torch's own, with no items named
    """One file a sample: decoded, scaled, mirrored by turns, in [-1, 1]."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[number]) as opened:
            image = opened.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        pixels = np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else image, np.float32)
        return torch.from_numpy(pixels.transpose(2, 0, 1) / 127.5 - 1), int(self.files[number].parent.name.removeprefix("class"))


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def time_plain(config: RunConfig, source: Path, autoencoder: Any, steps: int) -> float:
    """Seconds of a step of the plain loop; the first is left out."""
    conditions = open_conditions(config.condition, ck.open_dataset(source), Path())
    denoiser = make_denoiser(config, conditions, (4, _SIDE // 8, _SIDE // 8)).train()
    average = copy.deepcopy(denoiser).requires_grad_(requires_grad=False)
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=1e-4, weight_decay=0)
    alphas = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    taken: list[float] = []
    batches = endless(DataLoader(Files(source), batch_size=_BATCH, num_workers=1, drop_last=True, persistent_workers=True))
    for turn in range(steps):
        start = time.perf_counter()
        pixels, labels = next(batches)
        numbers = torch.arange(turn * _BATCH, (turn + 1) * _BATCH)
        with torch.no_grad():
            found = autoencoder.model.encode(pixels).latent_dist
            clean = (found.mean + found.std * draw_normal(0, "posterior", numbers, found.mean.shape[1:])) * autoencoder.scale
        times, noise = numbers * 7 % 1000, draw_normal(0, "noise", numbers, clean.shape[1:])
        alpha = alphas[times].view(-1, 1, 1, 1)
        prediction = denoiser(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, times, denoiser.embed(Condition(ids=labels)))
        loss = (prediction - noise).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for kept, weight in zip(average.parameters(), denoiser.parameters(), strict=True):
                kept.mul_(0.9999).add_(weight, alpha=1 - 0.9999)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def compare_loops(folder: Path, models: list[str], rounds: int, steps: int) -> tuple[list[str], list[str]]:
    """The table of both loops, and whether the aims are met."""
    shape = save_shape(folder / "vae", 128, 256, 512, 512)
    source, autoencoder = make_files(folder / "src"), load_autoencoder(describe_run("DiT-S/2", shape, 1).latents)  # type: ignore[arg-type] # it has one
    table = ["| model, latents 4 x 8 x 8 | plain loop | our step | plain / ours | waiting |", "|---|---|---|---|---|"]
    aims = []
    cache = folder / "cache"
    make_cache(describe_run("DiT-S/2", shape, 1), ck.open_dataset(source), cache)
    for model in models:
        config = describe_run(model, shape, steps)
        pictures = open_cache(config, source, cache)
        plain, ours, waits = [], [], []
        for _ in range(rounds):
            plain.append(time_plain(config, source, autoencoder, steps))
            seconds, wait = time_ours(config, source, pictures, folder / "run")
            ours.append(seconds)
            waits.append(wait)
        ratio, wait = statistics.median(a / b for a, b in zip(plain, ours, strict=True)), statistics.median(waits)
        table.append(f"| {model} | {np.median(plain):.2f} s | {np.median(ours):.2f} s | {ratio:.2f} | {wait:.2%} |")
        if model == _MODELS[0]:
            aims.append(state_aim(f"{model}: the plain loop's step / ours", ratio, _TIMES, least=True))
        aims.append(state_aim(f"{model}: percent of waiting for latents", 100 * wait, 100 * _WAIT))
    return table, aims


def fill_cache(folder: Path, source: Path, config: RunConfig, shape: tuple[int, ...]) -> Path:
    """A cache of noise whose keys and digests are those of a source: its images are never decoded."""
    assert config.latents is not None
    index, autoencoder = ck.open_dataset(source).index(), load_autoencoder(config.latents)
    keys, step = index.column("key"), 4096
    how = {"flipped": False, "split": index.meta.split, "rows": len(keys), "keys": keys_sha256(keys), "rows_per_shard": step}
    stated = Stated.model_validate({"encoder": autoencoder.identity, "size": config.data.size, "shape": shape, **how})
    digest = np.frombuffer(xxh3_128_digest(blank_image()), np.uint8)
    folder.mkdir()
    shards = []
    for name, rows in stated.shard_rows():
        content, ends = pack_keys(keys[rows.start : rows.stop])
        moments = draw_normal(0, "noise", torch.arange(rows.start, rows.stop), shape).half().numpy()
        arrays = {"moments": moments, "keys": content, "ends": ends, "bad": np.zeros(len(rows), np.uint8)}
        shards.append(write_shard(folder / name, arrays | {"digests": np.tile(digest, (len(rows), 1))}, stated))
    versions = {name: version(name) for name in ("torch", "diffusers")}
    manifest = CacheManifest(**stated.model_dump(), excluded=0, shards=tuple(shards), versions=versions)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def blank_image() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (4, 4)).save(held, "PNG")
    return held.getvalue()


def forget_pages(cache: Path) -> None:
    """Have the system drop what it holds of a cache in memory."""
    for file in cache.glob("latents-*"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_reading(pictures: Latents, seed: int) -> float:
    """Rows a second, in an order that is drawn, in batches."""
    order = draw_words(seed, "order", torch.arange(len(pictures)), 1)[:, 0].argsort()
    start = time.perf_counter()
    for rows in order.split(_READ):
        pictures.load(rows, rows, seed)
    return len(pictures) / (time.perf_counter() - start)


def measure_reading(folder: Path, rounds: int) -> list[str]:
    """Size and speed of latents of 256-pixel images, by the autoencoder's kind."""
    rows = [f"{number:06d}" for number in range(_HELD)]
    place = folder / "small"
    for key in rows:
        file = place / f"class{int(key) % 2}" / f"{key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blank_image())
    head = "| latents of 256 x 256 pixels | a million rows | with mirrored ones | read from memory | from the disk |"
    table = [head, "|---|---|---|---|---|"]
    config = describe_run("DiT-S/2", save_shape(folder / "tiny", 32, 32, 32, 32), 1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"size": 256, "flip": False})})
    shapes = {"mean and deviation, 4 x 32 x 32 (sd-vae, f8)": (2, 4, 32, 32), "mean, 3 x 64 x 64 (a VQModel, f4)": (1, 3, 64, 64)}
    for name, shape in shapes.items():
        cache = fill_cache(folder / f"cache-{shape[0]}", place, config, shape)
        warm, cold = [], []
        time_reading(open_cache(config, place, cache), 0)
        for number in range(rounds):
            warm.append(time_reading(open_cache(config, place, cache), number))
            forget_pages(cache)  # which nobody has mapped now
            cold.append(time_reading(open_cache(config, place, cache), number))
        held = float(np.prod(shape)) * 2 * 1e6 / 1e9
        speeds = [f"{np.median(found):,.0f} rows/s, {np.median(found) * held / 1e3:,.1f} MB/s" for found in (warm, cold)]
        table.append(f"| {name} | {held:.1f} GB | {2 * held:.1f} GB | {speeds[0]} | {speeds[1]} |")
        shutil.rmtree(cache)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training on cached latents beside a plain loop.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--steps", type=int, default=5, help="steps a round of each, the first of which is left out (default 5)")
    parser.add_argument("--only", choices=_MODELS, help="one model (default: all)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = [name for name in _MODELS if arguments.only in (None, name)]
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        table, aims = compare_loops(Path(folder), models, arguments.rounds, arguments.steps)
        sizes = measure_reading(Path(folder), arguments.rounds)
    command = f"`OMP_NUM_THREADS=1 python benchmarks/train/latents.py --rounds {arguments.rounds} --steps {arguments.steps}`"
    publish("Cached latents", command, [*table, "", *aims, "", *sizes], record=arguments.record)


if __name__ == "__main__":
    main()
