"""The files of cached latents: shards with one contiguous piece a row, and a manifest that is written last.

CACHE/latents-00000.safetensors  moments (n, 1 or 2, C, h, w) float16: the mean and, of an AutoencoderKL, the deviation, unscaled
                                 flipped: the same of the images mirrored, where they were made
                                 digests (n, 16): XXH3 of the stored images; keys, ends: the rows' keys; bad (n,): 1 for no image
CACHE/manifest.json              autoencoder, images, rows, SHA-256 of every shard
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.numpy import save
from xxhash import xxh3_128

import corruptkit as ck
from corruptkit.files import open_atomic

VERSION: Final = "latents 1"
MANIFEST = "manifest.json"
_KINDS: dict[str, Any] = {"F16": np.float16, "I64": np.int64, "U8": np.uint8}
_ARRAYS = {"moments": ("F16", 5), "flipped": ("F16", 5), "digests": ("U8", 2), "keys": ("U8", 1), "ends": ("I64", 1), "bad": ("U8", 1)}
_LONGEST = 1 << 20  # bytes of a shard's header

Array = npt.NDArray[Any]


class ShardRecord(BaseModel):
    """A shard as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str


class Stated(BaseModel):
    """What decides every byte of a cache's shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal["latents 1"] = VERSION
    encoder: dict[str, str | int]  # the autoencoder's identity
    size: int  # pixels of an image's edge
    flipped: bool  # whether images are there mirrored as well
    split: str
    rows: int
    keys: str  # SHA-256 of the rows' keys, in their order
    rows_per_shard: Annotated[int, Field(gt=0)]
    shape: tuple[int, ...]  # of one row's moments: (1 or 2, C, h, w)

    @property
    def digest(self) -> str:
        """The autoencoder's, as it stands in runs and samples."""
        return hashlib.sha256(json.dumps(self.encoder, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def row_bytes(self) -> int:
        """Of moments, without the mirrored ones."""
        return int(np.prod(self.shape)) * 2

    def shard_rows(self) -> Iterator[tuple[str, range]]:
        """Each shard's name and its rows."""
        for number, start in enumerate(range(0, self.rows, self.rows_per_shard)):
            yield f"latents-{number:05d}.safetensors", range(start, min(start + self.rows_per_shard, self.rows))


class CacheManifest(Stated):
    """What a whole cache holds."""

    excluded: int  # images that could not be decoded
    shards: tuple[ShardRecord, ...]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _add_up(self) -> CacheManifest:
        # Counted first: another's file may state more rows than there is time to list.
        told = len(self.shards) == -(-self.rows // self.rows_per_shard)
        if not told or [(shard.name, shard.rows) for shard in self.shards] != [(name, len(rows)) for name, rows in self.shard_rows()]:
            raise ValueError(f"found shards that do not add up to {self.rows} rows")
        return self


class Mapped(NamedTuple):
    """A shard's arrays, which lie in its file or in memory; `map` is None for the latter."""

    arrays: Mapping[str, Array]
    offsets: Mapping[str, int]  # of each array in the file
    map: mmap.mmap | None


def read_manifest(folder: Path) -> CacheManifest:
    """The manifest of a whole cache. Raises DatasetError where there is none, IntegrityError where it is no manifest."""
    file = folder / MANIFEST
    try:
        content = file.read_bytes()
    except OSError as error:
        unfinished = any(folder.glob("latents-*.safetensors")) or (folder / "request.json").exists()
        do = "start corruptkit-train cache again: it resumes" if unfinished else "make one with corruptkit-train cache"
        found = "an unfinished cache" if unfinished else error.strerror or str(error)
        raise ck.DatasetError(ck.Problem(str(file), found, "a whole cache of latents", do)) from None
    try:
        return CacheManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        found = f"no manifest of latents: {'.'.join(map(str, first['loc']))} {first['msg']}".replace("  ", " ")
        raise ck.IntegrityError(ck.Problem(str(file), found, VERSION, "make the cache anew")) from None


def write_shard(file: Path, arrays: Mapping[str, Array], stated: Stated) -> ShardRecord:
    """Write a shard, which gets its name when it is on the disk."""
    # Of several words of metadata, safetensors writes one or another first.
    told = json.dumps({"cache": stated.model_dump_json(), "arrays": digest_arrays(arrays)})
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"corruptkit": told})
    with open_atomic(file, file.parent) as opened:
        opened.write(content)
    return ShardRecord(name=file.name, rows=len(arrays["moments"]), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def record_shard(file: Path) -> ShardRecord:
    """The record of a shard that lies there."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return ShardRecord(name=file.name, rows=len(map_shard(file).arrays["moments"]), bytes=file.stat().st_size, sha256=digest)


def map_shard(file: Path, *, hold: bool = False) -> Mapped:
    """The arrays of a shard, mapped from its file or, with `hold`, read. Raises IntegrityError where it is no shard."""
    with _name_damage(file), file.open("rb") as opened:
        content: Any = opened.read() if hold else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(content[:8], "little")
        if length > _LONGEST:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        offsets = {name: 8 + length + part["data_offsets"][0] for name, part in header.items()}
        arrays = {name: _view_array(content, name, part, offsets[name]) for name, part in header.items()}
        rows = {name: len(array) for name, array in arrays.items() if name != "keys"}
        if arrays.keys() | {"flipped"} != _ARRAYS.keys() or len(set(rows.values())) > 1 or arrays["digests"].shape[1] != 16:
            raise ValueError(f"other arrays, of rows {rows}")
        return Mapped(arrays, offsets, None if hold else content)


def _view_array(content: Any, name: str, part: Mapping[str, Any], start: int) -> Array:
    """An array where a header says that it lies, if it is of its kind; another's header may say anything."""
    kind, axes = _ARRAYS[name]
    shape, (first, last) = part["shape"], part["data_offsets"]
    if part["dtype"] != kind or len(shape) != axes:
        raise ValueError(f"{name} of {part['dtype']} and shape {shape}")
    count = math.prod(shape)
    if first < 0 or last - first != count * np.dtype(_KINDS[kind]).itemsize:
        raise ValueError(f"{name} of other bytes than its shape")
    return np.frombuffer(content, _KINDS[kind], count, start).reshape(shape)


def read_stated(file: Path) -> tuple[str, str]:
    """What a shard says that it holds, as it was written, and the digest of its arrays."""
    with _name_damage(file), file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        found = json.loads(json.loads(opened.read(min(length, _LONGEST)))["__metadata__"]["corruptkit"])
        return str(found["cache"]), str(found["arrays"])


def digest_arrays(arrays: Mapping[str, Array]) -> str:
    """XXH3 of all of a shard's arrays: what tells a whole one from a damaged one before there is a manifest."""
    digest = xxh3_128()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextmanager
def _name_damage(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ck.IntegrityError(ck.Problem(str(file), f"cannot be read: {error.strerror}", do="make the cache anew")) from None
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise ck.IntegrityError(ck.Problem(str(file), f"no shard of latents: {error!s:.80}", do="make the cache anew")) from None


def pack_keys(keys: pa.Array) -> tuple[Array, Array]:
    """The bytes of all keys, one after another, and where each ends."""
    ends = np.cumsum(pc.binary_length(keys).to_numpy(zero_copy_only=False).astype(np.int64))
    return np.frombuffer(b"".join(key.encode() for key in keys.to_pylist()), np.uint8), ends


def unpack_keys(file: Path, content: Array, ends: Array) -> pa.Array:
    """The keys of a shard. Raises IntegrityError where they are none."""
    offsets = np.concatenate((np.zeros(1, np.int64), ends))
    with _name_damage(file):  # another's file may say that a key ends anywhere
        keys = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(content.tobytes()))
        keys.validate(full=True)
    return keys


def keys_sha256(keys: pa.Array) -> str:
    """One digest of all keys in their order."""
    content, ends = pack_keys(keys)
    return hashlib.sha256(ends.tobytes() + content.tobytes()).hexdigest()
