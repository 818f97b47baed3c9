"""A run from its configuration and its data: what it is trained on is checked first, recorded, and refused where it is not the same."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

import corruptkit as ck
from corruptkit.files import explain_disk, lock_folder, write_atomic
from corruptkit_train.autoencoders import Autoencoder, load_autoencoder
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.conditions import open_conditions, read_recipe
from corruptkit_train.config import APART, RunConfig, Stated, read_record
from corruptkit_train.cost import tell_cost
from corruptkit_train.encoders import Encoder, load_encoder
from corruptkit_train.grids import draw_grid
from corruptkit_train.images import Feed, Pictures
from corruptkit_train.latent_shards import read_manifest
from corruptkit_train.latents import Latents
from corruptkit_train.loop import Home, Material, train_model
from corruptkit_train.models.dit import DiT
from corruptkit_train.models.mlp import MLP
from corruptkit_train.models.unet import UNet
from corruptkit_train.pipelines.saving import Settings, save_pipeline
from corruptkit_train.sampling import Trained, make_scheduler, place_model
from corruptkit_train.trained import make_denoiser, pixel_shape, trained_model

_PACKAGES = ("corruptkit", "corruptkit-train", "torch", "diffusers", "accelerate", "transformers", "numpy")


@dataclass(frozen=True)
class Opened:
    """A data set that may be trained on, the networks between it and what is learned, as far as there are any, and what is recorded."""

    dataset: ck.Dataset
    autoencoder: Autoencoder | None
    encoder: Encoder | None
    record: dict[str, Any]


def train_run(
    config: RunConfig,
    data: str | Path,
    out: Path,
    *,
    source: str | Path | None = None,
    latents: str | Path | None = None,
    images: int | None = None,
) -> dict[str, Any]:
    """Train, or go on training, `config` on the data set or variant at `data`; everything lands in `out`. Gives the record of the run.

    `latents` is the cache of a run that has a table of that name. A second call with the same identity resumes from the newest
    checkpoint. Raises CatalogError (configuration), DatasetError (data), IntegrityError (a variant that is not what its manifest says,
    a broken checkpoint, a loss that is no number), ConflictError (`out` holds another run). Of several processes, all but the first
    give an empty record.
    """
    accelerator = start_processes(config, out)
    refuse_nesting(Path(data), out)
    cache = find_cache(config, data, latents)
    if cache is not None:
        refuse_nesting(cache, out)
    opened = open_data(config, data, source)
    refuse_nesting(opened.dataset.root, out)  # an overlay's source
    with hold_folder(out, first=accelerator.is_main_process):
        record = compare_folder(config, opened.record, out, images or config.images)
        conditions = open_conditions(config.condition, opened.dataset, out / "captions", file=str(data), encoder=opened.encoder)
        denoiser = make_denoiser(config, conditions, opened.record["shape"])
        if accelerator.is_main_process:
            tell_cost(config, conditions, opened.record["shape"], images or config.images)
        pictures = open_feed(config, opened, cache)
        if accelerator.is_main_process:
            write_record(config, record, out)
        if config.machine.trackers:
            accelerator.init_trackers("corruptkit", config={"run": record["run"], "variant_id": opened.record["variant_id"] or "source"})

        def show(weights: dict[str, Tensor], seen: int) -> None:
            trained = trained_model(config, conditions, weights, opened.autoencoder)
            draw_grid(config, place_model(trained, config.sampler, accelerator.device), conditions, out, seen)

        material, home = Material(pictures, conditions), Home(out, record)
        how: dict[str, Any] = {"images": images or config.images, "accelerator": accelerator, "draw_grid": show}
        average = train_model(config, denoiser, material, home, **how)
        accelerator.end_training()
        if accelerator.is_main_process:
            save_run(config, trained_model(config, conditions, average, opened.autoencoder), opened, out / "pipeline")
    return record | {"images": images or config.images, "path": str(out)} if accelerator.is_main_process else {}


@contextmanager
def hold_folder(out: Path, *, first: bool) -> Iterator[None]:
    """The run's folder, which its first process holds against other runs; one that was made for a run that never began goes again."""
    made = not out.exists()
    with explain_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))
    try:
        with lock_folder(out) if first else nullcontext():
            yield
    finally:
        if first and made:
            with suppress(OSError):
                out.rmdir()


def refuse_nesting(data: Path, out: Path) -> None:
    """A run inside of its data would change them; a run's own folder is no data. Raises ConflictError, DatasetError."""
    if (data / "run.json").is_file() and (data / "checkpoints").is_dir():
        raise ck.DatasetError(ck.Problem(str(data), "the folder of a run", "a variant or a source", "name the data that it was trained on"))
    if data.resolve() in (out.resolve(), *out.resolve().parents):
        raise ck.ConflictError(ck.Problem(str(out), "it lies in the data", "a folder beside it", "choose another --out"))


def find_cache(config: RunConfig, data: str | Path, latents: str | Path | None) -> Path | None:
    """The cache of a run that has latents; one for a run that has none is refused. Raises CatalogError."""
    if config.latents is None and latents is not None:
        found, do = "a cache for a run of pixels", "leave it out, or state latents.autoencoder"
        raise ck.CatalogError(ck.Problem("--latents", found, do=do))
    if config.latents is not None and latents is None:
        do = f"make it with corruptkit-train cache RUN.toml --data {data} --out CACHE, then state --latents CACHE"
        raise ck.CatalogError(ck.Problem("--latents", "no cache for a run of latents", "a folder", do))
    return None if latents is None else Path(latents)


def open_feed(config: RunConfig, opened: Opened, cache: Path | None) -> Feed:
    """What the run reads by row: pixels, or latents where it has a cache of them; in memory where they are within `machine.hold`."""
    rows = len(opened.dataset)
    if cache is None:
        keep = rows * config.data.channels * config.data.size**2 <= config.machine.hold
        return Pictures(opened.dataset, config.data, keep=keep, watch=watch_rows("decode"))
    assert config.latents is not None
    assert opened.autoencoder is not None
    manifest = read_manifest(cache)
    keep = rows * manifest.row_bytes * (1 + manifest.flipped) <= config.machine.hold
    return Latents(cache, opened.dataset, config.data, config.latents, opened.autoencoder, keep=keep, watch=watch_rows("compare"))


def open_data(config: RunConfig, data: str | Path, source: str | Path | None = None) -> Opened:
    """A source as it lies, or a variant that is what its manifest says: digests, plan, fingerprint. Raises IntegrityError."""
    field: Literal["label", "caption"] = "label" if config.condition.kind == "class" else "caption"
    manifest = Path(data) / ".corruptkit" / "manifest.json"
    if source is not None and not manifest.exists():
        raise ck.CatalogError(ck.Problem("--source", f"{data} is no variant", "the source of an overlay", "leave it out"))
    recipe = read_recipe(config.condition)
    if manifest.exists():
        found = ck.verify(data, source=source)
        if found.problems:
            raise ck.IntegrityError(*found.problems)
    dataset = ck.open_dataset(data, source=source, fields=() if manifest.exists() else (field,))
    known = dataset.manifest
    if known is not None:
        if not manifest.exists():
            what, expected = "a variant on a server, which is not verified from here", "a folder, or an overlay of a source on a server"
            raise ck.DatasetError(ck.Problem(str(data), what, expected, "copy it here"))
        refuse_unseen(Path(data), field)
    autoencoder = None if config.latents is None else load_autoencoder(config.latents)
    encoder = None if config.condition.kind == "class" else load_encoder(config.condition.encoder)
    return Opened(
        dataset,
        autoencoder,
        encoder,
        {
            "variant_id": known.variant_id if known else "",
            "recipe": known.identity["recipe"] if known else None,
            "each_epoch": recipe.identity() if recipe else None,  # what its file says: another text under the same name is another run
            "spec": known.identity["spec"] if known else 1,
            "fingerprint": dataset.index().meta.fingerprint,  # of the conditions as they are read: a source's, or a variant's
            "rows": len(dataset),
            "split": dataset.split,
            "classes": dataset.index().meta.classes if config.condition.kind == "class" else None,
            "encoder": encoder.digest if encoder else None,  # as it is loaded, were it trained along
            "shape": list(autoencoder.latent_shape(config.data.size) if autoencoder else pixel_shape(config)),
            "latents": {"autoencoder": autoencoder.digest, "scale": autoencoder.scale, "shift": autoencoder.shift} if autoencoder else None,
        },
    )


def refuse_unseen(variant: Path, field: Literal["label", "caption"]) -> None:
    """A variant whose edits the run would not see, since it is told the other condition, is no clean control: that is the source."""
    edited = set(pq.read_table(variant / ".corruptkit" / "plan.parquet", columns=["field"])["field"].to_pylist())
    if edited and field not in edited:
        kind = {"label": "text", "caption": "class"}[field]
        found = f"a variant whose edits are of {edited.pop()}s, and a run that is told {field}s"
        raise ck.CatalogError(ck.Problem(str(variant), found, do=f"state condition.kind = '{kind}', or train on the source"))


def start_processes(config: RunConfig, out: Path) -> Accelerator:
    """This process among those of the run; a batch that they cannot share evenly is refused, and a tracker that is not there."""
    for name in config.machine.trackers:
        if find_spec(name) is None:
            do = f"pip install 'corruptkit-train[{name}]', or leave it out"
            raise ck.CatalogError(ck.Problem("machine.trackers", f"'{name}' is not installed", do=do))
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        do = "state machine.sharding = 'fsdp', and launch without it"
        raise ck.CatalogError(ck.Problem("ACCELERATE_USE_FSDP", "accelerate's own sharding, which does not run on CPUs", do=do))
    # Precision is the run's: a launcher's default would be a second autocast around it.
    accelerator = Accelerator(mixed_precision="no", log_with=list(config.machine.trackers) or None, project_dir=str(out))
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


def compare_folder(config: Stated, data: dict[str, Any], out: Path, images: int) -> dict[str, Any]:
    """The record of a run; what lies in its folder must be the same run's, with no more images. Raises ConflictError."""
    file, found, run = out / "run.json", find_checkpoints(out), config.digest()
    record = {"run": run, "data": data, "versions": {name: version(name) for name in _PACKAGES}}
    if file.exists():
        refuse_other(read_record(file), {"config": config.model_dump(mode="json"), **record}, str(file))
    elif found:
        raise ck.ConflictError(ck.Problem(str(out), "checkpoints without run.json", "a run or nothing", "choose another --out"))
    if found and found[-1].state.get("run") != run:
        place, other = str(found[-1].path), f"a checkpoint of run {str(found[-1].state.get('run'))[:16]}"
        raise ck.IntegrityError(ck.Problem(place, other, f"of run {run[:16]}, as run.json has it", "choose another --out"))
    if found and found[-1].images > images:
        expected = f"at least {found[-1].images:,}, which it has been trained on"
        raise ck.CatalogError(ck.Problem("--images", f"found {images:,}", expected, "state as many, or more"))
    return record


def write_record(config: Stated, record: dict[str, Any], out: Path) -> None:
    """run.json: from here on the folder is this run's."""
    stored = {"config": config.model_dump(mode="json"), **record}
    with explain_disk(out):
        write_atomic(out / "run.json", (json.dumps(stored, indent=2) + "\n").encode(), out)


def refuse_other(before: dict[str, Any], now: dict[str, Any], file: str) -> None:
    """Another variant or another configuration under the same folder: the first field that differs is named."""
    for part, name in (("data", "the data's"), ("config", "the run's")):
        old, new = flatten_fields(before.get(part) or {}), flatten_fields(now[part])
        for field in sorted(old.keys() | new.keys()):
            if part == "config" and field.partition(".")[0] in APART:
                continue
            if field not in old or field not in new or old[field] != new[field]:
                # A field that only one of them has: another version of this program wrote the file.
                there, here = (f"{fields[field]!r:.60}" if field in fields else "absent" for fields in (old, new))
                raise ck.ConflictError(ck.Problem(file, f"{name} {field} is {here}", f"{there}, as it was begun", "choose another --out"))


def flatten_fields(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested tables by dotted name."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: value}
    return {key: leaf for part, below in items for key, leaf in flatten_fields(below, f"{name}.{part}" if name else str(part)).items()}


def watch_rows(word: str) -> Callable[[Iterator[Any], int], Iterator[Any]]:
    """A progress bar on standard error, where that is a terminal."""

    def watch(rows: Iterator[Any], total: int) -> Iterator[Any]:
        return iter(tqdm(rows, total=total, desc=word, unit="img", disable=None, file=sys.stderr, leave=False))

    return watch


def save_run(config: RunConfig, trained: Trained, opened: Opened, folder: Path) -> None:
    """The averaged network as a folder that DiffusionPipeline opens, with what it was trained on."""
    denoiser = trained.denoiser
    assert isinstance(denoiser, DiT | UNet | MLP)
    info = {"run": config.digest(), "variant_id": opened.record["variant_id"], "fingerprint": opened.record["fingerprint"]}
    vae = opened.autoencoder
    latent = {} if vae is None else {"latent_scale": vae.scale, "latent_shift": vae.shift}
    settings = Settings(config.objective.kind, guidance_scale=config.sampler.scale, steps=config.sampler.steps, info=info, **latent)
    names = opened.dataset.layout.class_names or None
    condition = opened.encoder or names
    scheduler = make_scheduler(config.objective, config.sampler)
    parts: dict[str, Any] = {"scheduler": scheduler, "condition": condition, "autoencoder": None if vae is None else vae.model}
    save_pipeline(denoiser, folder, settings=settings, replace=True, **parts)


def limit_threads() -> None:
    """As many threads as this process may use cores: torch counts the machine's."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
