"""Making a cache of latents: an image set is encoded once, in pieces, by one process or many; what is finished stays.

Every byte follows from the images and the autoencoder, so that a cache that was killed and resumed, or made by other workers, is the same.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from xxhash import xxh3_128_digest

import corruptkit as ck
from corruptkit.engines.local import map_shards
from corruptkit.files import drop_leftovers, explain_disk, lock_folder, write_atomic
from corruptkit_train.autoencoders import Autoencoder, load_autoencoder
from corruptkit_train.config import RunConfig
from corruptkit_train.images import ImageConfig, Pictures, find_next
from corruptkit_train.latent_shards import (
    MANIFEST,
    Array,
    CacheManifest,
    ShardRecord,
    Stated,
    digest_arrays,
    keys_sha256,
    map_shard,
    pack_keys,
    read_manifest,
    read_stated,
    record_shard,
    unpack_keys,
    write_shard,
)
from corruptkit_train.latents import (
    LatentConfig,
    Watch,
    compare_once,
    find_changed,
    find_damage,
    find_places,
    leave_stamp,
    make_stamp,
    open_shards,
    refuse_stale,
)

_REQUEST = "request.json"
_PIECE = 64  # rows of a task
_PACKAGES = ("corruptkit-train", "torch", "diffusers", "numpy", "pillow", "safetensors")
# What a GPU and a CPU may differ by in an image's moments, after rounding to float16.
_NEAR = 1 / 256


@dataclass(frozen=True)
class Job:
    """What is encoded, and how."""

    dataset: ck.Dataset
    images: ImageConfig
    latents: LatentConfig
    digest: str  # of the autoencoder
    flipped: bool

    def __reduce__(self) -> tuple[Any, ...]:
        return _recall_job, (f"{os.getpid()} {id(self)}", self.dataset, self.images, self.latents, self.digest, self.flipped)


_JOBS: dict[str, Job] = {}
_NETWORKS: dict[str, Autoencoder] = {}  # of this process, by digest


def _recall_job(mark: str, *parts: Any) -> Job:
    """A job in a worker: the first copy that came, whose index is open already."""
    return _JOBS.setdefault(mark, Job(*parts))


class Piece(NamedTuple):
    """Some rows, encoded."""

    moments: Array  # (n, 1 or 2, C, h, w) float16
    flipped: Array | None
    digests: Array  # (n, 16) uint8
    bad: Array  # (n,) uint8


def make_cache(
    config: RunConfig,
    dataset: ck.Dataset,
    out: Path,
    *,
    flipped: bool = False,
    rows_per_shard: int = 4096,
    workers: int = 1,
    advance: Callable[[int], object] = lambda _: None,
) -> CacheManifest:
    """Encode what is missing in `out`; gives the manifest. `advance` is told how many rows are there.

    Raises ConflictError where `out` holds another cache, IntegrityError where a whole one is of other images by now.
    """
    job, autoencoder = _make_job(config, dataset, flipped=flipped)
    stated = state_cache(job, autoencoder, rows_per_shard)
    with explain_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out):
            whole = _claim(out, stated)
            if not whole:
                _write_shards(job, stated, out, workers, advance)
            manifest = read_manifest(out)
            refuse_stale(out, manifest, dataset, config.data, autoencoder)
            if whole or dataset.layout.format == "imagefolder":  # single images may have changed since they were read
                maps = open_shards(out, manifest)
                compare_once(out, manifest, dataset, find_places(out, manifest, dataset, maps), maps)
            else:
                leave_stamp(out, make_stamp(out, manifest, dataset))
    return manifest


def _make_job(config: RunConfig, dataset: ck.Dataset, *, flipped: bool = False) -> tuple[Job, Autoencoder]:
    if config.latents is None:
        raise ck.CatalogError(
            ck.Problem("latents", "a run without the table [latents]", "the autoencoder in it", "state latents.autoencoder")
        )
    autoencoder = load_autoencoder(config.latents)
    _place_network(autoencoder)
    return Job(dataset, config.data, config.latents, autoencoder.digest, flipped or config.data.flip), autoencoder


def state_cache(job: Job, autoencoder: Autoencoder, rows_per_shard: int) -> Stated:
    """What decides the cache's bytes."""
    channels, *edges = autoencoder.latent_shape(job.images.size)
    kinds = 2 if autoencoder.identity["class"] == "AutoencoderKL" else 1  # mean and deviation, or the mean
    return Stated(
        encoder=autoencoder.identity,
        size=job.images.size,
        flipped=job.flipped,
        split=job.dataset.split,
        rows=len(job.dataset),
        keys=keys_sha256(job.dataset.index().column("key")),
        rows_per_shard=rows_per_shard,
        shape=(kinds, channels, *edges),
    )


def _claim(out: Path, stated: Stated) -> bool:
    """Whether a whole cache of this is there; a folder that holds another one, or something else, is refused."""
    drop_leftovers(out, "latents-*.safetensors", MANIFEST, _REQUEST)
    if (out / MANIFEST).exists():
        _refuse_other(out / MANIFEST, read_manifest(out), stated)
        (out / _REQUEST).unlink(missing_ok=True)
        return True
    if (out / _REQUEST).exists():
        try:
            before = Stated.model_validate_json((out / _REQUEST).read_bytes())
        except ValueError:
            found = "no request for a cache of latents"
            raise ck.ConflictError(ck.Problem(str(out / _REQUEST), found, do="choose another --out")) from None
        _refuse_other(out / _REQUEST, before, stated)
    elif any(out.iterdir()):
        raise ck.ConflictError(ck.Problem(str(out), "something else lies there", "an empty folder", "choose another --out"))
    else:
        write_atomic(out / _REQUEST, (stated.model_dump_json(indent=2) + "\n").encode(), out)
    return False


def _refuse_other(file: Path, before: Stated, now: Stated) -> None:
    for name in Stated.model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            found = f"another cache: its {name} is {_shorten(old)}"
            raise ck.ConflictError(ck.Problem(str(file), found, _shorten(new), "choose another --out, or remove the folder"))


def _shorten(value: Any) -> str:
    """A value in a message; of an autoencoder, its class and the beginning of its weights' digest."""
    return f"{value.get('class')!s:.40} with weights {value.get('weights')!s:.16}" if isinstance(value, dict) else f"{value!r:.60}"


def _write_shards(job: Job, stated: Stated, out: Path, workers: int, advance: Callable[[int], object]) -> None:
    """Encode the shards that are not there, then write the manifest."""
    records = {name: _keep_shard(out / name, job, stated, rows) for name, rows in stated.shard_rows()}
    for known in records.values():
        advance(known.rows if known else 0)
    wanted = [(name, rows) for name, rows in stated.shard_rows() if records[name] is None]
    pieces = [rows[start : start + _PIECE] for _, rows in wanted for start in range(0, len(rows), _PIECE)]
    # A GPU is kept busy by few processes, each of which holds the network.
    encoded = map_shards(partial(encode_rows, job), pieces, workers)
    keys = job.dataset.index().column("key")
    for name, rows in wanted:
        parts: list[Piece] = []
        for _ in range(0, len(rows), _PIECE):
            parts.append(next(encoded))
            advance(len(parts[-1].bad))
        records[name] = write_shard(out / name, _join_pieces(parts, keys[rows.start : rows.stop]), stated)
    bad = [np.flatnonzero(map_shard(out / name).arrays["bad"]) + rows.start for name, rows in stated.shard_rows()]
    excluded = np.concatenate(bad) if bad else np.empty(0, np.int64)
    find_next(excluded, stated.rows, str(job.dataset.path))
    found: list[ShardRecord] = [record for record in records.values() if record is not None]
    versions = {name: version(name) for name in _PACKAGES}
    manifest = CacheManifest(**stated.model_dump(), excluded=len(excluded), shards=tuple(found), versions=versions)
    write_atomic(out / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode(), out)
    (out / _REQUEST).unlink(missing_ok=True)


def _keep_shard(file: Path, job: Job, stated: Stated, rows: range) -> ShardRecord | None:
    """The record of a shard that is there, if it is one of these images as they are now."""
    if not file.exists():
        return None
    try:
        found = map_shard(file).arrays
        same = read_stated(file) == (stated.model_dump_json(), digest_arrays(found))
        keys = unpack_keys(file, found["keys"], found["ends"])
    except ck.IntegrityError:
        return None
    if not same or not keys.equals(job.dataset.index().column("key")[rows.start : rows.stop]):
        return None
    digests = (xxh3_128_digest(job.dataset.row(row).get("image") or b"") for row in rows)
    same = all(digest == stored.tobytes() for digest, stored in zip(digests, found["digests"], strict=True))
    return record_shard(file) if same else None


def _join_pieces(parts: Sequence[Piece], keys: pa.Array) -> dict[str, Array]:
    content, ends = pack_keys(keys)
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("moments", "digests", "bad")}
    if parts[0].flipped is not None:
        joined["flipped"] = np.concatenate([part.flipped for part in parts if part.flipped is not None])
    return joined | {"keys": content, "ends": ends}


def encode_rows(job: Job, rows: range) -> Piece:
    """Moments of some rows, by this process's own network. Raises DatasetError for a bad image that is to be refused."""
    autoencoder = _open_network(job)
    pictures = Pictures(job.dataset, job.images)
    stored = [job.dataset.row(row).get("image") or b"" for row in rows]
    images = [pictures.decode(row, content) for row, content in zip(rows, stored, strict=True)]
    blank = np.zeros((job.images.channels, job.images.size, job.images.size), np.uint8)
    pixels = torch.from_numpy(np.stack([blank if image is None else image for image in images]))
    keys = job.dataset.index().column("key")[rows.start : rows.stop]
    bad = np.array([image is None for image in images], np.uint8)
    moments = _encode(autoencoder, pixels, bad, keys)
    flipped = _encode(autoencoder, pixels.flip(-1), bad, keys) if job.flipped else None
    digests = np.stack([np.frombuffer(xxh3_128_digest(content), np.uint8) for content in stored])
    return Piece(moments, flipped, digests, bad)


def _encode(autoencoder: Autoencoder, pixels: Tensor, bad: Array, keys: pa.Array) -> Array:
    """(n, 1 or 2, C, h, w) float16, zeros where there is no image."""
    mean, deviation = autoencoder.encode(pixels)
    moments = torch.stack([part for part in (mean, deviation) if part is not None], dim=1).to(torch.float16).numpy()
    moments[bad.astype(bool)] = 0
    wrong = np.flatnonzero(~np.isfinite(moments).all(axis=(1, 2, 3, 4)))
    if len(wrong):
        where, found = autoencoder.config.autoencoder, "latents that float16 cannot hold"
        raise ck.IntegrityError(
            ck.Problem(where, found, "numbers below 65,504", "use another autoencoder", key=keys[int(wrong[0])].as_py())
        )
    return moments


def _place_network(autoencoder: Autoencoder) -> None:
    """Make it this process's, on an accelerator where there is one: of several, workers take them in turn."""
    if torch.cuda.is_available():
        worker = multiprocessing.current_process()._identity  # noqa: SLF001 - its number has no other name
        autoencoder.model.to(torch.device("cuda", sum(worker) % torch.cuda.device_count()))
    _NETWORKS.clear()
    _NETWORKS[autoencoder.digest] = autoencoder


def _open_network(job: Job) -> Autoencoder:
    """The network of this process; a worker loads it once."""
    if job.digest not in _NETWORKS:
        autoencoder = load_autoencoder(job.latents)
        if autoencoder.digest != job.digest:
            found = "weights that changed while they were in use"
            raise ck.IntegrityError(ck.Problem(job.latents.autoencoder, found, do="start again when they stay"))
        _place_network(autoencoder)
    return _NETWORKS[job.digest]


def verify_cache(
    config: RunConfig, dataset: ck.Dataset, folder: Path, *, deep: int = 0, watch: Watch | None = None
) -> tuple[list[str], list[ck.Problem]]:
    """What holds of a cache, and what does not: digests of shards, the images they are of, and `deep` rows encoded again."""
    manifest, (job, autoencoder) = read_manifest(folder), _make_job(config, dataset)
    damage = list(find_damage(folder, manifest))
    if damage:
        return [], damage
    checks = [f"{len(manifest.shards)} shards have the SHA-256 of the manifest"]
    try:
        refuse_stale(folder, manifest, dataset, config.data, autoencoder)
        maps = open_shards(folder, manifest)
        places = find_places(folder, manifest, dataset, maps)
    except ck.CorruptkitError as error:
        return checks, list(error.problems)
    checks.append("autoencoder, size of images, split and rows are those of the run and the data")
    changed = list(find_changed(folder, dataset, places, maps, watch))
    if changed:
        return checks, changed
    checks.append(f"{len(dataset):,} images are those that were encoded")
    if deep:
        job = replace(job, flipped=manifest.flipped)
        rows = range(0, len(dataset), max(1, len(dataset) // deep))
        problems = list(_find_deviating(job, folder, manifest, places, maps, rows))
        if problems:
            return checks, problems
        checks.append(f"{len(rows):,} rows, encoded again, are what is stored")
    return checks, []


def _find_deviating(job: Job, folder: Path, manifest: CacheManifest, places: Array, maps: Any, rows: range) -> Iterator[ck.Problem]:
    """Rows whose moments are not what the autoencoder makes of them here, but for what two devices differ by."""
    for row in rows:
        made = encode_rows(job, range(row, row + 1))
        shard, place = divmod(int(places[row]), manifest.rows_per_shard)
        for name in ("moments", "flipped")[: 1 + manifest.flipped]:
            stored = maps[shard].arrays[name][place].astype(np.float32)
            apart = np.abs(getattr(made, name)[0].astype(np.float32) - stored)
            if (apart > _NEAR * (1 + np.abs(stored))).any():
                key = job.dataset.index().column("key")[row].as_py()
                found, expected = f"{name} that are {float(apart.max()):.3g} off", "what the autoencoder makes of the image"
                yield ck.Problem(str(folder / manifest.shards[shard].name), found, expected, "make the cache anew", key=key)
