"""Cached latents in the place of images: what a run reads where its file has a table [latents].

A cache is made once for an image set and serves every variant of it, in whatever format: rows are found by key, conditions stay outside.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from xxhash import xxh3_128_digest

import corruptkit as ck
from corruptkit.files import write_atomic
from corruptkit_train.autoencoders import Autoencoder, AutoencoderConfig
from corruptkit_train.draws import draw_normal, draw_uniform
from corruptkit_train.images import ImageConfig, find_next
from corruptkit_train.latent_shards import (
    MANIFEST,
    Array,
    CacheManifest,
    Mapped,
    keys_sha256,
    map_shard,
    read_manifest,
    record_shard,
    unpack_keys,
)

Watch = Callable[[Iterator[Any], int], Iterator[Any]]  # wraps an iterator, to show how far it is
_CHECKED = "checked"  # a folder of the cache: which sources' images were compared with its digests


class LatentConfig(AutoencoderConfig):
    """Latents of an autoencoder in place of pixels: `corruptkit-train cache` makes them once, `run --latents` reads them."""

    draw: Literal["sample", "mean"] = "sample"  # anew at each sight of an image (AutoencoderKL alone has deviations), or the mean


class Latents:
    """Moments by row of a data set, as `Pictures` are pixels by row: read where they are needed, or with `keep` held in memory.

    Raises CatalogError for a cache of other images or of another autoencoder, IntegrityError where an image has changed since.
    """

    held = True  # no worker process is wanted: a row is one copy
    ahead = True  # which a thread makes while the step before runs

    def __init__(
        self,
        folder: Path,
        dataset: ck.Dataset,
        config: ImageConfig,
        latents: LatentConfig,
        autoencoder: Autoencoder,
        *,
        keep: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.folder, self.config, self.draw = folder, config, latents.draw
        self.scale, self.shift = autoencoder.scale, autoencoder.shift
        self.manifest = read_manifest(folder)
        refuse_stale(folder, self.manifest, dataset, config, autoencoder)
        self._maps = open_shards(folder, self.manifest, keep=keep)
        self._places = find_places(folder, self.manifest, dataset, self._maps)
        compare_once(folder, self.manifest, dataset, self._places, self._maps, watch)
        bad = gather_rows(self._maps, "bad")[self._places]
        self._found = torch.from_numpy(find_next(np.flatnonzero(bad), len(bad), str(folder)))

    def __len__(self) -> int:
        return len(self._places)

    def load(self, rows: Tensor, numbers: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(B, 1 or 2, C, h, w) float16 moments, of the mirrored image where its number says so, and the rows that they are of."""
        found = self._found[rows]
        places = self._places[found.numpy()].tolist()
        turned = (draw_uniform(seed, "flip", numbers) < 0.5).tolist() if self.config.flip else [False] * len(places)
        spots = [
            (*divmod(place, self.manifest.rows_per_shard), "flipped" if turn else "moments")
            for place, turn in zip(places, turned, strict=True)
        ]
        self._ask_ahead(spots)
        moments = np.empty((len(places), *self.manifest.shape), np.float16)
        for number, (shard, row, name) in enumerate(spots):
            moments[number] = self._maps[shard].arrays[name][row]
        return torch.from_numpy(moments), found

    def _ask_ahead(self, spots: Sequence[tuple[int, int, str]]) -> None:
        """Have the system read all of a batch at once, and nothing besides: a page at a time would wait for the disk at each."""
        size = self.manifest.row_bytes
        for shard, row, name in spots:
            part = self._maps[shard]
            if part.map is not None:
                start = part.offsets[name] + row * size
                first = start - start % mmap.PAGESIZE
                part.map.madvise(mmap.MADV_WILLNEED, first, start + size - first)

    def prepare(self, images: Tensor, numbers: Tensor, seed: int) -> Tensor:
        """(B, C, h, w) float32, what is learned: (mean + deviation x noise - shift) x scale; the noise is keyed by image number."""
        moments = images.float()
        clean = moments[:, 0]
        if moments.shape[1] > 1 and self.draw == "sample":
            clean = clean + moments[:, 1] * draw_normal(seed, "posterior", numbers, tuple(clean.shape[1:]))
        return (clean - self.shift) * self.scale


def refuse_stale(folder: Path, manifest: CacheManifest, dataset: ck.Dataset, config: ImageConfig, autoencoder: Autoencoder) -> None:
    """A cache of another autoencoder, of images of another size, of another split: what differs is named."""
    made = f"{manifest.encoder.get('class')} {manifest.digest[:16]}"
    wanted = f"{autoencoder.identity['class']} {autoencoder.digest[:16]}"
    facts = (
        (manifest.digest != autoencoder.digest, f"latents of another autoencoder, {made}", f"{wanted}, as [latents] says"),
        (manifest.size != config.size, f"latents of other images: data.size is {manifest.size}", f"{config.size}, as the run says"),
        (config.flip and not manifest.flipped, "no latents of flipped images", "them, since data.flip is true"),
        (
            bool(manifest.excluded) and config.bad == "refuse",
            f"{manifest.excluded} images that could not be decoded were passed over",
            'none, since data.bad is "refuse"',
        ),
        (manifest.split != dataset.split, f"latents of the split {manifest.split!r}", f"{dataset.split!r}, as the data is"),
        (manifest.rows != len(dataset), f"latents of {manifest.rows:,} rows", f"{len(dataset):,}, as the data has"),
    )
    for wrong, found, expected in facts:
        if wrong:
            raise ck.CatalogError(ck.Problem(str(folder), found, expected, "make another cache with corruptkit-train cache"))


def open_shards(folder: Path, manifest: CacheManifest, *, keep: bool = False) -> list[Mapped]:
    """All shards, which are as long as the manifest says."""
    maps = []
    for stated in manifest.shards:
        part = map_shard(folder / stated.name, hold=keep)
        shapes = {part.arrays[name].shape for name in ("moments", "flipped")[: 1 + manifest.flipped] if name in part.arrays}
        if shapes != {(stated.rows, *manifest.shape)} or (manifest.flipped and "flipped" not in part.arrays):
            raise ck.IntegrityError(ck.Problem(str(folder / stated.name), f"arrays of shapes {shapes}", do="make the cache anew"))
        if part.map is not None:
            part.map.madvise(mmap.MADV_RANDOM)  # nothing beside a row is read along with it
        maps.append(part)
    return maps


def gather_rows(maps: Sequence[Mapped], name: str) -> Array:
    """A small array of all shards, one after another."""
    return np.concatenate([part.arrays[name] for part in maps]) if maps else np.empty(0, np.uint8)


def find_places(folder: Path, manifest: CacheManifest, dataset: ck.Dataset, maps: Sequence[Mapped]) -> Array:
    """For each row of the data its place in the cache, by key."""
    parts = [
        unpack_keys(folder / name, part.arrays["keys"], part.arrays["ends"])
        for (name, _), part in zip(manifest.shard_rows(), maps, strict=True)
    ]
    stored = pa.concat_arrays([pa.array([], pa.large_string()), *parts])
    keys = dataset.index().column("key")
    if stored.equals(keys):
        return np.arange(len(stored))
    places = pc.index_in(keys, stored)
    if places.null_count:
        key = keys[int(np.flatnonzero(places.is_null().to_numpy(zero_copy_only=False))[0])].as_py()
        found, do = "no latents of a row", "make another cache with corruptkit-train cache"
        raise ck.CatalogError(ck.Problem(str(folder), found, "the rows of the data", do, key=key))
    return np.asarray(places, np.int64)


def compare_once(
    folder: Path, manifest: CacheManifest, dataset: ck.Dataset, places: Array, maps: Sequence[Mapped], watch: Watch | None = None
) -> None:
    """Compare every shard with its SHA-256 and every image with its digest, unless that was done for files of these sizes and times."""
    stamp = make_stamp(folder, manifest, dataset)
    if _stamp_file(folder, stamp).exists():
        return
    problem = next(find_damage(folder, manifest), None) or next(find_changed(folder, dataset, places, maps, watch), None)
    if problem is not None:
        raise ck.IntegrityError(problem)
    leave_stamp(folder, stamp)


def _stamp_file(folder: Path, stamp: bytes) -> Path:
    return folder / _CHECKED / f"{hashlib.sha256(stamp).hexdigest()[:32]}.json"


def leave_stamp(folder: Path, stamp: bytes) -> None:
    """Remember that images and digests agree; a cache that cannot be written to is compared each time."""
    file = _stamp_file(folder, stamp)
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        write_atomic(file, stamp, file.parent)


def make_stamp(folder: Path, manifest: CacheManifest, dataset: ck.Dataset) -> bytes:
    """Sizes and times of the cache's shards and of all that holds images, the rows' keys, and which autoencoder."""
    cache = [_stat_file(folder / shard.name) for shard in manifest.shards]
    data = [(shard.name, shard.bytes, shard.mtime_ns) for shard in dataset.index().meta.shards]
    if dataset.layout.format == "imagefolder":  # whose shards are folders: an image that is written anew leaves them as they were
        data += [_stat_file(file) for file in _list_files(dataset.root)]  # an overlay's images lie in its source
    keys = keys_sha256(dataset.index().column("key"))
    stated = {"manifest": manifest.model_dump(mode="json"), "cache": cache, "data": data, "path": str(dataset.root.resolve()), "keys": keys}
    return (json.dumps(stated, sort_keys=True) + "\n").encode()


def _stat_file(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise ck.IntegrityError(ck.Problem(str(file), f"cannot be read: {error.strerror}", do="make the cache anew")) from None
    return file.name, found.st_size, found.st_mtime_ns


def _list_files(folder: Path) -> Iterator[Path]:
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = sorted(name for name in below if name[0] != ".")
        yield from (Path(place, name) for name in sorted(names) if name[0] != ".")


def find_damage(folder: Path, manifest: CacheManifest) -> Iterator[ck.Problem]:
    """Shards whose bytes are not those that were written."""
    for stated in manifest.shards:
        file = folder / stated.name
        try:
            same = record_shard(file) == stated
        except ck.IntegrityError as error:
            yield from error.problems
        except OSError as error:
            yield ck.Problem(str(file), f"cannot be read: {error.strerror}", do="make the cache anew")
        else:
            if not same:
                yield ck.Problem(str(file), f"its SHA-256 is not that of {MANIFEST}", do="make the cache anew")


def find_changed(folder: Path, dataset: ck.Dataset, places: Array, maps: Sequence[Mapped], watch: Watch | None) -> Iterator[ck.Problem]:
    """Rows whose stored image is not the one that was encoded."""
    digests = gather_rows(maps, "digests")
    rows = dataset.rows()
    for number, row in enumerate(watch(rows, len(dataset)) if watch else rows):
        if xxh3_128_digest(row.get("image") or b"") != digests[places[number]].tobytes():
            found, expected = "latents of another image under the same key", "those of the image in the data"
            yield ck.Problem(str(folder), found, expected, "make another cache with corruptkit-train cache", key=row["key"])
