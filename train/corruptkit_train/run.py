"""A run from its configuration and its data: what it is trained on is checked first, recorded, and refused where it is not the same."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

import corruptkit as ck
from corruptkit.files import explain_disk, lock_folder, write_atomic
from corruptkit_train.averages import copy_weights
from corruptkit_train.checkpoint import Checkpoint, find_checkpoints
from corruptkit_train.conditions import Conditions, Tell, null_conditions, open_conditions
from corruptkit_train.config import RunConfig
from corruptkit_train.encoders import load_encoder
from corruptkit_train.grids import draw_grid
from corruptkit_train.images import Pictures
from corruptkit_train.loop import Home, Material, train_model
from corruptkit_train.models import build_model
from corruptkit_train.models.dit import DiT
from corruptkit_train.models.unet import UNet
from corruptkit_train.pipelines.saving import Settings, save_pipeline
from corruptkit_train.sampling import Trained, make_scheduler, place_model

_PACKAGES = ("corruptkit", "corruptkit-train", "torch", "diffusers", "accelerate", "transformers", "numpy")


@dataclass(frozen=True)
class Opened:
    """A data set that may be trained on, and what is recorded of it."""

    dataset: ck.Dataset
    record: dict[str, Any]


def train_run(
    config: RunConfig, data: str | Path, out: Path, *, source: str | Path | None = None, images: int | None = None
) -> dict[str, Any]:
    """Train, or go on training, `config` on the data set or variant at `data`; everything lands in `out`. Gives the record of the run.

    A second call with the same identity resumes from the newest checkpoint. Raises CatalogError (configuration), DatasetError (data),
    IntegrityError (a variant that is not what its manifest says, a broken checkpoint, a loss that is no number), ConflictError
    (`out` holds another run). Of several processes, all but the first give an empty record.
    """
    accelerator = start_processes(config, out)
    opened = open_data(config, data, source)
    with explain_disk(out):
        out.mkdir(parents=True, exist_ok=True)
    # Ranks of one run share the folder; its first process holds it against other runs.
    with lock_folder(out) if accelerator.is_main_process else _no_lock():
        record = claim_folder(config, opened.record, out, write=accelerator.is_main_process)
        conditions = open_conditions(config.condition, opened.dataset, out / "captions", file=str(data))
        denoiser = make_denoiser(config, conditions)
        pictures = Pictures(opened.dataset, config.data, keep=fits_memory(config, len(opened.dataset)), watch=watch_decoding)
        if config.machine.trackers:
            accelerator.init_trackers("corruptkit", config={"run": record["run"], "variant_id": opened.record["variant_id"] or "source"})
        average = train_model(
            config,
            denoiser,
            Material(pictures, conditions),
            Home(out, record),
            images=images or config.images,
            accelerator=accelerator,
            draw_grid=lambda weights, seen: draw_grid(
                config, place_model(trained_model(config, conditions, weights), config.sampler, accelerator.device), conditions, out, seen
            ),
        )
        accelerator.end_training()
        if accelerator.is_main_process:
            save_run(config, trained_model(config, conditions, average), opened, out / "pipeline")
    return record | {"images": images or config.images, "path": str(out)} if accelerator.is_main_process else {}


class _no_lock:  # noqa: N801 - a context manager, used as a function
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def open_data(config: RunConfig, data: str | Path, source: str | Path | None = None) -> Opened:
    """A source as it lies, or a variant that is what its manifest says: digests, plan, fingerprint. Raises IntegrityError."""
    field: Literal["label", "caption"] = "label" if config.condition.kind == "class" else "caption"
    manifest = Path(data) / ".corruptkit" / "manifest.json"
    if manifest.exists():
        found = ck.verify(data, source=source)
        if found.problems:
            raise ck.IntegrityError(*found.problems)
    dataset = ck.open_dataset(data, source=source, fields=() if manifest.exists() else (field,))
    known = dataset.manifest
    return Opened(
        dataset,
        {
            "variant_id": known.variant_id if known else "",
            "recipe": known.identity["recipe"] if known else None,
            "spec": known.identity["spec"] if known else 1,
            "fingerprint": dataset.index().meta.fingerprint,  # of the conditions as they are read: a source's, or a variant's
            "rows": len(dataset),
            "split": dataset.split,
            "classes": dataset.index().meta.classes if config.condition.kind == "class" else None,
        },
    )


def start_processes(config: RunConfig, out: Path) -> Accelerator:
    """This process among those of the run; a batch that they cannot share evenly is refused."""
    accelerator = Accelerator(log_with=list(config.machine.trackers) or None, project_dir=str(out))
    world, launched = accelerator.num_processes, os.environ.get("WORLD_SIZE", "1")
    if str(world) != launched:
        # On a CPU, accelerate takes no notice of a launcher unless it is told to: each process would train by itself.
        found, do = f"{launched} processes that know nothing of each other", "set ACCELERATE_USE_CPU=true to train on CPUs"
        raise ck.CatalogError(ck.Problem("WORLD_SIZE", found, do=do))
    batch, micro = config.optimiser.batch, config.machine.micro_batch
    if batch % (world * (micro or 1)):
        found = f"a batch of {batch} on {world} processes" + (f" in passes of {micro}" if micro else "")
        raise ck.CatalogError(ck.Problem("optimiser.batch", found, f"a multiple of {world * (micro or 1)}", "change one of them"))
    return accelerator


def claim_folder(config: RunConfig, data: dict[str, Any], out: Path, *, write: bool) -> dict[str, Any]:
    """The record of a run: written into an empty folder, compared with the one that is there. Raises ConflictError."""
    file = out / "run.json"
    record = {"run": config.digest(), "data": data, "versions": {name: version(name) for name in _PACKAGES}}
    stored = {"config": config.model_dump(mode="json"), **record}
    if file.exists():
        refuse_other(json.loads(file.read_text()), stored, str(file))
    elif find_checkpoints(out):
        raise ck.ConflictError(ck.Problem(str(out), "checkpoints without run.json", "a run or nothing", "choose another --out"))
    if write:
        with explain_disk(out):
            write_atomic(file, (json.dumps(stored, indent=2) + "\n").encode(), out)
    return record


def refuse_other(before: dict[str, Any], now: dict[str, Any], file: str) -> None:
    """Another variant or another configuration under the same folder: the first field that differs is named."""
    for part, name in (("data", "the data's"), ("config", "the run's")):
        old, new = flatten_fields(before[part]), flatten_fields(now[part])
        for field in sorted(old.keys() | new.keys()):
            if part == "config" and (field == "images" or field.startswith("machine.")):
                continue
            if old.get(field) != new.get(field):
                found, expected = f"{name} {field} is {new.get(field)!r:.60}", f"{old.get(field)!r:.60}, as it was begun"
                raise ck.ConflictError(ck.Problem(file, found, expected, "choose another --out"))


def flatten_fields(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested tables by dotted name."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: value}
    return {key: leaf for part, below in items for key, leaf in flatten_fields(below, f"{name}.{part}" if name else str(part)).items()}


def make_denoiser(config: RunConfig, conditions: Conditions) -> DiT | UNet:
    """The network as its seed begins it."""
    shape = (config.data.channels, config.data.size, config.data.size)
    states = conditions.null.states
    tokens = states is not None and states.ndim == 3
    width = None if states is None else states.shape[-1]
    return build_model(config.model, shape=shape, classes=conditions.classes, text_width=width, tokens=tokens, seed=config.seed)


def trained_model(config: RunConfig, conditions: Conditions, weights: dict[str, Tensor]) -> Trained:
    """Another network of the run, with these weights, for sampling."""
    denoiser = make_denoiser(config, conditions)
    copy_weights(weights, weights, denoiser)
    denoiser.eval().requires_grad_(requires_grad=False)
    return Trained(denoiser, config.objective, conditions.null)


def open_model(
    config: RunConfig, checkpoint: Checkpoint, weights: Literal["average", "raw"] = "average", tell: Tell | None = None
) -> Trained:
    """The network of a run's checkpoint; its data need not be there. `tell` saves loading its text encoder again."""
    conditions = null_conditions(config.condition, checkpoint.state["data"]["classes"], tell)
    part = {"average": "average", "raw": "weights"}[weights]
    tensors = checkpoint.tensors(part)
    try:
        return trained_model(config, conditions, tensors)
    except (LookupError, RuntimeError) as error:
        found = f"weights of another network: {str(error).splitlines()[0]:.80}"
        raise ck.IntegrityError(ck.Problem(str(checkpoint.path / f"{part}.safetensors"), found, "those that run.json states")) from None


def fits_memory(config: RunConfig, rows: int) -> bool:
    """Whether all images, decoded, are within what may be held."""
    return rows * config.data.channels * config.data.size**2 <= config.machine.hold


def watch_decoding(rows: Iterator[Any], total: int) -> Iterator[Any]:
    """A progress bar on standard error, where that is a terminal."""
    return iter(tqdm(rows, total=total, desc="decode", unit="img", disable=None, file=sys.stderr, leave=False))


def save_run(config: RunConfig, trained: Trained, opened: Opened, folder: Path) -> None:
    """The averaged network as a folder that DiffusionPipeline opens, with what it was trained on."""
    denoiser = trained.denoiser
    assert isinstance(denoiser, DiT | UNet)
    info = {"run": config.digest(), "variant_id": opened.record["variant_id"], "fingerprint": opened.record["fingerprint"]}
    settings = Settings(config.objective.kind, guidance_scale=config.sampler.scale, steps=config.sampler.steps, info=info)
    names = opened.dataset.layout.class_names or None
    condition = names if config.condition.kind == "class" else load_encoder(config.condition.encoder)
    scheduler = make_scheduler(config.objective, config.sampler)
    save_pipeline(denoiser, folder, scheduler=scheduler, settings=settings, condition=condition, replace=True)


def limit_threads() -> None:
    """As many threads as this process may use cores: torch counts the machine's."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
