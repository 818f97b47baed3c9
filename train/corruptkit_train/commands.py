"""What the commands do: words of the command line into one library call, and its result into lines."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

import corruptkit as ck
from corruptkit.terminal import Outcome
from corruptkit_train.checkpoint import Checkpoint, find_checkpoints
from corruptkit_train.conditions import encode_words
from corruptkit_train.config import RunConfig, change_sampler, load_config, parse_config
from corruptkit_train.run import limit_threads, open_model, train_run
from corruptkit_train.samples import Request, read_words, write_samples


def run_training(args: Namespace) -> Outcome:
    limit_threads()
    config = load_config(args.config, args.set)
    if args.images is not None:
        config = parse_config(config.model_dump(mode="json") | {"images": args.images}, "--images")
    out = Path(args.out)
    record = train_run(config, args.data, out, source=args.source)
    if not record:  # not the first of several processes
        return Outcome([])
    data = record["data"]["variant_id"] or "clean"
    lines = [f"trained   {out}  {record['images']:,} images, run {record['run'][:16]}, data {data}"]
    log = (out / "log.jsonl").read_text().splitlines() if (out / "log.jsonl").exists() else []  # somebody may have taken it away
    line = json.loads(log[-1]) if log else {}
    if line:
        speed = f"{line['images_per_s']:,.0f} images/s, {line['data_wait']:.1%} waiting for data, MFU {line['mfu']:.0%}"
        lines.append(f"at last   loss {line['loss']:.4f}, {speed}")
    lines.append(f"open it   DiffusionPipeline.from_pretrained('{out / 'pipeline'}', trust_remote_code=True)")
    return Outcome(lines, {"run": record, "last": line})


def sample_model(args: Namespace) -> Outcome:
    limit_threads()
    home = Path(args.run)
    config, checkpoint = find_run(home, args.checkpoint)
    sampler = change_sampler(config, args.set)
    scales = read_scales(args.scale) if args.scale else (sampler.scale,)
    trained = open_model(config, checkpoint, args.weights)
    words = tuple(read_words(args.prompts, args.labels, trained.denoiser.classes))
    request = Request(args.count, scales, args.seed, words, sampler, args.weights, args.format)
    vocabulary = encode_words(config.condition, words)
    manifest = write_samples(trained, checkpoint, request, vocabulary, Path(args.out), batch=args.batch, watch=_watch)
    files = manifest["files"]
    lines = [f"sampled   {args.out}  {args.count:,} images at each of {', '.join(f'{scale:g}' for scale in scales)}, {len(files)} files"]
    return Outcome(lines, {"samples": manifest})


def find_run(home: Path, images: int | None) -> tuple[RunConfig, Checkpoint]:
    """The configuration and a checkpoint of a run's folder. Raises DatasetError."""
    file = home / "run.json"
    if not file.exists():
        raise ck.DatasetError(ck.Problem(str(file), "it is not there", "the folder of a run", "name the --out of corruptkit-train run"))
    config = load_config(file)
    checkpoints = {checkpoint.images: checkpoint for checkpoint in find_checkpoints(home)}
    if not checkpoints or (images is not None and images not in checkpoints):
        found = "no checkpoint" if images is None else f"no checkpoint at {images:,} images"
        there = ", ".join(f"{number:,}" for number in checkpoints) or "none"
        raise ck.DatasetError(ck.Problem(str(home), found, f"one of: {there}", "train it first, or name another"))
    return config, checkpoints[max(checkpoints) if images is None else images]


def read_scales(text: str) -> tuple[float, ...]:
    """Guidance scales from a list with commas. Raises CatalogError."""
    try:
        found = tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 <= scale < 1e6 for scale in found):
        raise ck.CatalogError(ck.Problem("--scale", f"found '{text}'", "numbers of 0 or more with commas, such as 1,1.5,2", "mend it"))
    return found


def _watch(items: list[Any], total: int) -> Iterator[Any]:
    return iter(tqdm(items, total=total, desc="sample", unit="shard", disable=None, file=sys.stderr, leave=False))


COMMANDS = {"run": run_training, "sample": sample_model}
