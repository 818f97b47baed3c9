"""States of captions on disk, each found again by the encoder's digest and the caption's own, so that a caption is encoded once.

A folder for each encoder holds parts that are never changed: part-NAME.safetensors with `digests` (n, 16) uint8, `states` and, of
tokens, `mask`. Corruptions that give captions to other rows, as swaps do, ask for the same entries; new captions become a new part.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import corruptkit as ck

Watch = Callable[[int, int], None]  # captions that are encoded, of how many
_VERSION = "captions 1"
_DIGEST = 16  # bytes of SHA-256: captions are foreign, so that two must not be made to meet
_PART_ROWS, _PART_BYTES = 8192, 1 << 26  # what a run that is killed loses
_PIECE = 1024
_LARGE = 1 << 30  # bytes above which states lie in a file, not in memory


class CacheWarning(UserWarning):
    """A part of a cache is not what was written: its captions are encoded anew."""


class Encodes(Protocol):
    """What the cache asks of an encoder; `shape` is that of one caption's states."""

    @property
    def digest(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class CaptionTable:
    """The states of U captions, and which of them each of N rows has."""

    states: Tensor  # (U, D) or (U, T, D), as they are stored; mapped from a file where they are large
    mask: Tensor | None  # (U, T) bool
    places: npt.NDArray[np.int64]  # (N,) row -> caption
    null: int  # the place of the empty caption


class _Part(NamedTuple):
    digests: npt.NDArray[np.bytes_]  # (n,)
    states: Tensor
    mask: Tensor | None


def embed_captions(
    encoder: Encodes,
    captions: Sequence[str] | pa.Array | pa.ChunkedArray,
    folder: Path,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    watch: Watch | None = None,
    large: int = _LARGE,
) -> CaptionTable:
    """The table of these captions and of the empty one; those that the folder lacks are encoded and kept in it."""
    unique, places, null = unique_captions(captions)
    digests = np.array([hashlib.sha256(caption.encode()).digest()[:_DIGEST] for caption in unique], f"S{_DIGEST}")
    home = Path(folder) / f"{encoder.digest}-{dtype}"
    with _explain_disk(home):
        parts = list(_read_parts(home, encoder, dtype))
        if len(_missing_places(digests, parts)):
            home.mkdir(parents=True, exist_ok=True)
            with _hold_folder(home):  # a second run waits here, and then finds what the first has made
                parts = _repair_parts(home, encoder, dtype)
                wanted = _missing_places(digests, parts)
                parts += _make_parts(encoder, [unique[place] for place in wanted], digests[wanted], home, dtype, watch)
        states, mask = _gather_states(digests, parts, home, large)
    return CaptionTable(states, mask, places, null)


def unique_captions(captions: Sequence[str] | pa.Array | pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64], int]:
    """Distinct captions in the order in which they come, each row's place among them, and the empty caption's."""
    column = captions if isinstance(captions, pa.Array | pa.ChunkedArray) else pa.array(captions, pa.large_string())
    if column.null_count:
        raise ValueError(f"found {column.null_count} rows without a caption, expected one for each row")
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    coded = column.dictionary_encode()
    unique: list[str] = coded.dictionary.to_pylist()
    if "" not in unique:
        unique.append("")
    return unique, coded.indices.to_numpy().astype(np.int64), unique.index("")


def _missing_places(digests: npt.NDArray[np.bytes_], parts: Sequence[_Part]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(_find_entries(digests, parts) < 0)


def _find_entries(digests: npt.NDArray[np.bytes_], parts: Sequence[_Part]) -> npt.NDArray[np.int64]:
    """For each digest its number among the entries of all parts, -1 where none has it."""
    held = np.concatenate([np.empty(0, f"S{_DIGEST}"), *(part.digests for part in parts)])
    if not len(held):
        return np.full(len(digests), -1, np.int64)
    order = np.argsort(held, kind="stable")
    near = np.searchsorted(held, digests, sorter=order).clip(max=len(held) - 1)
    entries = order[near].astype(np.int64)
    return np.where(held[entries] == digests, entries, -1)


def _gather_states(digests: npt.NDArray[np.bytes_], parts: Sequence[_Part], home: Path, large: int) -> tuple[Tensor, Tensor | None]:
    """The states in the order of the digests, and their mask."""
    entries = _find_entries(digests, parts)
    states = _make_room((len(digests), *parts[0].states.shape[1:]), parts[0].states.dtype, home, large)
    mask = None if parts[0].mask is None else torch.zeros(states.shape[:2], dtype=torch.bool)
    start = 0
    for part in parts:
        here = torch.from_numpy(np.flatnonzero((entries >= start) & (entries < start + len(part.digests))))
        rows = torch.from_numpy(entries)[here] - start
        states[here] = part.states[rows]
        if mask is not None and part.mask is not None:
            mask[here] = part.mask[rows].bool()
        start += len(part.digests)
    return states, mask


def _make_room(shape: tuple[int, ...], dtype: torch.dtype, home: Path, large: int) -> Tensor:
    """Room in memory, or in a file without a name that goes with its last user: the system keeps in memory what it can."""
    size = int(np.prod(shape)) * dtype.itemsize
    if size <= large:
        return torch.empty(shape, dtype=dtype)
    with tempfile.TemporaryFile(dir=home) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, and a dead process where it is mapped
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(size,))).view(dtype).view(shape)


def _make_parts(
    encoder: Encodes, captions: Sequence[str], digests: npt.NDArray[np.bytes_], home: Path, dtype: str, watch: Watch | None
) -> list[_Part]:
    """Encode captions and keep them, a part at a time."""
    step = max(1, min(_PART_ROWS, _PART_BYTES // (int(np.prod(encoder.shape)) * 4)))
    made = []
    for start in range(0, len(captions), step):
        pieces = []
        for first in range(start, min(start + step, len(captions)), _PIECE):
            pieces.append(encoder.encode(captions[first : min(first + _PIECE, start + step)]))
            if watch is not None:
                watch(first + len(pieces[-1][0]), len(captions))
        masks = [mask for _, mask in pieces if mask is not None]
        states = torch.cat([states for states, _ in pieces]).to(getattr(torch, dtype))
        if not torch.isfinite(states).all():
            found, do = f"states that are no numbers in {dtype}", "store them as float32 or choose another encoder"
            raise ck.IntegrityError(ck.Problem(str(home), found, "finite states", do))
        part = _Part(digests[start : start + step], states, torch.cat(masks) if masks else None)
        _write_part(part, home, encoder.digest)
        made.append(part)
    return made


def _write_part(part: _Part, home: Path, encoder: str) -> None:
    """Write a part to a temporary name, and give it its own when it is on the disk."""
    tensors = {"digests": torch.from_numpy(part.digests.view(np.uint8).reshape(-1, _DIGEST).copy()), "states": part.states}
    if part.mask is not None:
        tensors["mask"] = part.mask.to(torch.uint8)
    content = save(tensors, {"version": _VERSION, "encoder": encoder, "sha256": _tensors_sha256(tensors)})
    name = hashlib.sha256(tensors["digests"].numpy().data).hexdigest()[:32]
    temporary = home / f"part-{name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(home / f"part-{name}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)


def _repair_parts(home: Path, encoder: Encodes, dtype: str) -> list[_Part]:
    """The whole parts of a folder that is held; the broken ones go, and what killed runs have left."""
    for leftover in home.glob("part-*.tmp"):
        leftover.unlink(missing_ok=True)
    broken: list[Path] = []
    parts = list(_read_parts(home, encoder, dtype, broken))
    for file in broken:
        warnings.warn(f"{file}: not what was written; removed, its captions are encoded anew", CacheWarning, stacklevel=3)
        file.unlink()
    return parts


def _read_parts(home: Path, encoder: Encodes, dtype: str, broken: list[Path] | None = None) -> Iterator[_Part]:
    """The whole parts of a folder, by name, mapped from their files; the others are appended to `broken`."""
    for file in sorted(home.glob("part-*.safetensors")):
        part = _read_part(file, encoder, getattr(torch, dtype))
        if part is not None:
            yield part
        elif broken is not None:
            broken.append(file)


def _read_part(file: Path, encoder: Encodes, dtype: torch.dtype) -> _Part | None:
    try:
        with safe_open(file, "pt") as content:
            meta = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - it is no dictionary
    except (SafetensorError, FileNotFoundError):  # no such file: another run has just removed it
        return None
    if (meta.get("version"), meta.get("encoder"), meta.get("sha256")) != (_VERSION, encoder.digest, _tensors_sha256(tensors)):
        return None
    digests, states = (tensors.get(name, torch.empty(0)) for name in ("digests", "states"))
    if states.dtype != dtype or states.shape[1:] != encoder.shape or digests.shape != (len(states), _DIGEST):
        return None
    return _Part(digests.numpy().view(f"S{_DIGEST}").reshape(-1), states, tensors.get("mask"))


def _tensors_sha256(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _hold_folder(home: Path) -> Iterator[None]:
    """Hold a folder against other runs that would encode the same captions; the system lets go when this process ends."""
    descriptor = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _explain_disk(home: Path) -> Iterator[Any]:
    """One clear line for a folder that cannot be written or a disk that has no room; whole parts stay."""
    try:
        yield
    except OSError as error:
        found = f"captions cannot be kept: {error.strerror or error}"
        do = "free some space or choose another folder; what was encoded stays"
        raise ck.DatasetError(ck.Problem(str(error.filename or home), found, "a folder with room", do)) from None
