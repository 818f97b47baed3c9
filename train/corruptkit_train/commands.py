"""What the commands do: words of the command line into one library call, and its result into lines."""

from __future__ import annotations

import json
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import corruptkit as ck
from corruptkit.terminal import Outcome
from corruptkit_train.autoencoder_training import load_autoencoder_run, train_autoencoder
from corruptkit_train.checkpoint import Checkpoint, find_checkpoints
from corruptkit_train.conditions import open_words
from corruptkit_train.config import RunConfig, change_sampler, digest_table, load_config, parse_config, parse_stated, read_record
from corruptkit_train.cost import estimate_alone
from corruptkit_train.latent_cache import make_cache, verify_cache
from corruptkit_train.latent_shards import CacheManifest
from corruptkit_train.run import limit_threads, refuse_nesting, train_run, watch_rows
from corruptkit_train.samples import Request, Share, write_samples
from corruptkit_train.sampling import find_device, place_model
from corruptkit_train.trained import open_model

_DEEP = 64  # rows that --deep encodes again


def run_training(args: Namespace) -> Outcome:
    limit_threads()
    config = load_config(args.config, args.set)
    if args.images is not None:
        config = parse_config(config.model_dump(mode="json") | {"images": args.images}, "--images")
    out = Path(args.out)
    if config.latents is not None and args.latents is None:
        do = f"make it with: {_cache_command(args)}, then state --latents"
        raise ck.CatalogError(ck.Problem("--latents", "no cache, and the run learns latents", "the folder of one", do))
    record = train_run(config, args.data, out, source=args.source, latents=args.latents)
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


def _cache_command(args: Namespace) -> str:
    """The command that makes the cache that a run lacks."""
    words = ["corruptkit-train", "cache", args.config, "--data", args.data]
    words += ["--source", args.source] if args.source else []
    words += ["--out", f"{Path(args.data).name}-latents"]
    return shlex.join([*words, *(word for change in args.set for word in ("--set", change))])


def cache_latents(args: Namespace) -> Outcome:
    limit_threads()
    if not args.rows_per_shard:
        raise ck.CatalogError(ck.Problem("--rows-per-shard", "found 0", "1 or more", "mend it"))
    config, out = load_config(args.config, args.set), Path(args.out)
    refuse_nesting(Path(args.data), out)
    dataset = ck.open_dataset(args.data, source=args.source)
    refuse_nesting(dataset.root, out)  # an overlay's source
    if args.verify or args.deep:
        checks, problems = verify_cache(config, dataset, out, deep=_DEEP if args.deep else 0, watch=watch_rows("compare"))
        lines = [f"ok: {check}" for check in checks] + [f"problem: {problem}" for problem in problems]
        lines.append(f"{out}: {'NOT verified' if problems else 'verified'}")
        found = {"verified": not problems, "checks": checks, "problems": [problem.as_json() for problem in problems]}
        return Outcome(lines, found, 1 if problems else 0)
    with tqdm(total=len(dataset), desc="encode", unit="img", disable=None, file=sys.stderr, leave=False) as bar:
        how = {"flipped": args.flipped, "rows_per_shard": args.rows_per_shard, "workers": args.workers or _count_encoders()}
        manifest = make_cache(config, dataset, out, advance=bar.update, **how)
    return Outcome(_describe_cache(out, manifest), {"cache": {"path": str(out), **manifest.model_dump(mode="json")}})


def _count_encoders() -> int:
    """Processes that encode: one a core; of an accelerator few, each of which holds the network on it."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, 4 * torch.cuda.device_count()) if torch.cuda.is_available() else cores


def _describe_cache(out: Path, manifest: CacheManifest) -> list[str]:
    held = sum(shard.bytes for shard in manifest.shards)
    shape = " x ".join(map(str, manifest.shape))
    mirrored = ", and as many of mirrored images" if manifest.flipped else ""
    lines = [f"cached    {out}  {manifest.rows:,} rows of {shape} numbers in float16{mirrored}, {len(manifest.shards)} shards"]
    lines.append(f"size      {held / 1e6:,.1f} MB, {held / max(1, manifest.rows) / 1e3:,.1f} GB for each million images")
    lines += [f"excluded  {manifest.excluded:,} images that could not be decoded"] if manifest.excluded else []
    return [*lines, f"use it    corruptkit-train run RUN.toml --data VARIANT --latents {out} --out DIR"]


def estimate_run(args: Namespace) -> Outcome:
    config = load_config(args.config, args.set)
    found = estimate_alone(config)
    return Outcome(found.lines(), {"estimate": found.record()})


def sample_model(args: Namespace) -> Outcome:
    limit_threads()
    for flag in ("count", "batch"):
        if not getattr(args, flag):
            raise ck.CatalogError(ck.Problem(f"--{flag}", "found 0", "1 or more", "mend it"))
    config, checkpoint = find_run(Path(args.run), args.checkpoint)
    sampler = change_sampler(config, args.set)
    scales = (sampler.scale,) if args.scale is None else read_scales(args.scale)
    words = tuple(read_words(config.condition.kind, args.prompts, args.labels, checkpoint.state["data"]["classes"]))
    tell = open_words(config.condition)
    trained = place_model(open_model(config, checkpoint, args.weights, tell), sampler, find_device())
    request = Request(args.count, scales, args.seed, config.condition.kind, words, sampler, args.weights, args.format)
    share = Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    with tqdm(total=args.count, desc="sample", unit="img", disable=None if share.rank == 0 else True, file=sys.stderr, leave=False) as bar:
        out = Path(args.out)
        manifest = write_samples(trained, checkpoint, request, tell, out, batch=args.batch, share=share, advance=bar.update)
    if share.rank:
        return Outcome([])
    shown = ", ".join(f"{scale!r}".removesuffix(".0") for scale in scales)
    lines = [f"sampled   {args.out}  {args.count:,} images at each scale of {shown}, {len(manifest['files'])} files"]
    return Outcome(lines, {"samples": manifest})


def find_run(home: Path, images: int | None) -> tuple[RunConfig, Checkpoint]:
    """The configuration and a checkpoint of a run's folder. Raises DatasetError, or IntegrityError where the two are of different runs."""
    file = home / "run.json"
    if not file.exists():
        raise ck.DatasetError(ck.Problem(str(file), "it is not there", "the folder of a run", "name the --out of corruptkit-train run"))
    config = load_config(file)
    checkpoints = {checkpoint.images: checkpoint for checkpoint in find_checkpoints(home)}
    if not checkpoints or (images is not None and images not in checkpoints):
        found = "no checkpoint" if images is None else f"no checkpoint at {images:,} images"
        there = ", ".join(f"{number:,}" for number in checkpoints) or "none"
        raise ck.DatasetError(ck.Problem(str(home), found, f"one of: {there}", "train it first, or name another"))
    checkpoint = checkpoints[max(checkpoints) if images is None else images]
    run = digest_table(read_record(file)["config"])  # of what stands there, which somebody may have edited
    if checkpoint.state.get("run") != run or not isinstance(checkpoint.state.get("data"), dict):
        found, expected = f"a checkpoint of run {str(checkpoint.state.get('run'))[:16]}", f"of run {str(run)[:16]}, as run.json says"
        raise ck.IntegrityError(ck.Problem(str(checkpoint.path / "state.json"), found, expected, "remove the checkpoint's folder"))
    return config, checkpoint


def read_scales(text: str) -> tuple[float, ...]:
    """Guidance scales from a list with commas. Raises CatalogError."""
    try:
        found = tuple(dict.fromkeys(float(word) + 0.0 for word in text.split(",")))  # -0 is 0
    except ValueError:
        found = ()
    if not found or not all(0 <= scale < 1e6 for scale in found):
        raise ck.CatalogError(ck.Problem("--scale", f"found '{text}'", "numbers of 0 or more with commas, such as 1,1.5,2", "mend it"))
    return found


def read_words(kind: str, prompts: str | None, labels: str | None, classes: int | None) -> Sequence[str]:
    """The words of a request: the lines of a file, or class ids. Raises CatalogError."""
    if kind == "class":
        if prompts is not None:
            raise ck.CatalogError(ck.Problem("--prompts", "captions for a model of classes", "--labels", "name classes"))
        found = [str(number) for number in range(classes or 0)] if labels is None else labels.split(",")
        wrong = next((word for word in found if not _is_class(word, classes or 0)), None)
        if wrong is not None:
            expected = f"classes from 0 to {(classes or 0) - 1} with commas"
            raise ck.CatalogError(ck.Problem("--labels", f"found '{wrong:.40}'", expected, "mend the list"))
        return found
    if labels is not None:
        raise ck.CatalogError(ck.Problem("--labels", "classes for a model of text", "--prompts", "name a file of captions"))
    if prompts is None:
        raise ck.CatalogError(ck.Problem("--prompts", "no captions for a model of text", "a file of captions", "state --prompts FILE"))
    return read_lines(prompts)


def read_lines(file: str) -> list[str]:
    """Lines of a text file that are not blank. Raises CatalogError."""
    try:
        lines = [line for line in Path(file).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ck.CatalogError(ck.Problem(file, f"cannot be read: {why}", "text in UTF-8, a caption a line", "mend the file")) from None
    if not lines:
        raise ck.CatalogError(ck.Problem(file, "no captions", "a caption a line", "fill the file"))
    return lines


def _is_class(word: str, classes: int) -> bool:
    """Whether a word is a class as `str` writes it: digits alone, and no 0 before them."""
    return word.isascii() and word.isdigit() and len(word) < 10 and str(int(word)) == word and int(word) < classes


def train_latents(args: Namespace) -> Outcome:
    limit_threads()
    config = load_autoencoder_run(args.config, args.set)
    if args.images is not None:
        config = parse_stated(type(config), config.model_dump(mode="json") | {"images": args.images}, "--images")
    out = Path(args.out)
    record = train_autoencoder(config, args.data, out, source=args.source)
    measured = f"{record['psnr']:.2f} dB over {record['data']['held_out']:,} images held out, scale {record['scale']:.4f}"
    lines = [f"trained   {out}  {record['images']:,} images, {measured}, shift {record['shift']:.4f}"]
    lines.append(f"look      {out / 'grids'}: originals, and beneath them what comes back")
    lines.append(f"open it   AutoencoderTiny.from_pretrained('{out / 'autoencoder'}')")
    return Outcome(lines, {"run": record})


COMMANDS = {"autoencoder": train_latents, "cache": cache_latents, "estimate": estimate_run, "run": run_training, "sample": sample_model}
