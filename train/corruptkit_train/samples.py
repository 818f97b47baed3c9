"""Sample sets on the disk: PNGs in tars or one array, and a manifest that names the checkpoint they are from.

OUT/s1.5/000000000.tar   KEY.png, KEY.cls or KEY.txt (what it was told), KEY.json (image number, scale); 1,000 images a tar
OUT/s1.5/samples.npz     or: arr_0 (N, H, W, C) uint8 and, of classes, arr_1 (N,) int64, as the ADM evaluator reads it
OUT/samples.json         the request, the checkpoint's digests, SHA-256 of every file; written last

Shards are dealt out to processes in turn (RANK and WORLD_SIZE, as torchrun sets them). They share nothing but the folder: the first
claims it, the others begin when it is claimed, and the first ends when all shards are there.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import corruptkit as ck
from corruptkit.files import drop_leftovers, explain_disk, lock_folder, open_atomic, write_atomic
from corruptkit_train.checkpoint import Checkpoint
from corruptkit_train.conditions import Tell
from corruptkit_train.pipelines.pipeline import round_pixels
from corruptkit_train.sampling import SamplerConfig, Trained, decode_samples, sample_latents

SHARD = 1000
MANIFEST = "samples.json"
_REQUEST = "request.json"
_PAUSE = 0.2  # seconds between two looks at what other processes have done


@dataclass(frozen=True)
class Request:
    """What to sample: it decides every pixel, apart from rounding."""

    count: int
    scales: tuple[float, ...]
    seed: int
    kind: Literal["class", "text"]
    words: tuple[str, ...]  # what image i shows is words[i mod len]: captions, or class ids in decimal
    sampler: SamplerConfig
    weights: Literal["average", "raw"]
    format: Literal["tar", "npz"] = "tar"

    def record(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The request as it stands in the manifest."""
        part = {"average": "average", "raw": "weights"}[self.weights]
        return {
            "run": checkpoint.state["run"],
            "variant_id": checkpoint.state["data"]["variant_id"],
            "images_seen": checkpoint.images,
            "autoencoder": (checkpoint.state["data"]["latents"] or {}).get("autoencoder"),
            "weights": self.weights,
            "weights_sha256": checkpoint.state["sha256"][part],
            "count": self.count,
            "scales": list(self.scales),
            "seed": self.seed,
            "kind": self.kind,
            "words_sha256": hashlib.sha256("\n".join(self.words).encode()).hexdigest(),
            "words": len(self.words),
            "sampler": self.sampler.model_dump(mode="json", exclude={"scale"}),
            "rounding": "round(clamp((x + 1) / 2 * 255, 0, 255)), halves to the even",
            "format": self.format,
        }

    def starts(self) -> range:
        """The number of each shard's first image."""
        return range(0, self.count, SHARD)

    def word(self, number: int) -> str:
        return self.words[number % len(self.words)]


@dataclass(frozen=True)
class Share:
    """Which shards a process makes."""

    rank: int = 0
    world: int = 1


def write_samples(  # noqa: PLR0913 - what to sample, where to, and how
    trained: Trained,
    checkpoint: Checkpoint,
    request: Request,
    tell: Tell,
    out: Path,
    *,
    batch: int,
    share: Share = Share(),
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Sample what is missing in `out`; gives the manifest (an empty one to all processes but the first). `tell` encodes words.

    `advance` is told how many images are there. Raises ConflictError where `out` holds another request, IntegrityError where a
    finished set is not what its manifest says.
    """
    record, first = request.record(checkpoint), share.rank == 0
    with explain_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out) if first else nullcontext():
            finished = _claim(out, record) if first else _await_claim(out, record)
            if finished:
                advance(request.count)
                return _check_files(out, finished) if first else {}
            for start in request.starts()[share.rank :: share.world]:
                _make_shard(trained, request, tell, out, start, batch=batch, advance=advance)
            if not first:
                return {}
            while not all(_is_whole(out, request, start) for start in request.starts()):
                time.sleep(_PAUSE)  # what is missing is another process's
            return _finish(out, request, record)


def sample_numbers(
    trained: Trained, request: Request, tell: Tell, numbers: Tensor, batch: int, advance: Callable[[int], object] = lambda _: None
) -> Tensor:
    """(S, N, C, H, W) uint8 for some image numbers: a batch holds `batch` images over all scales."""
    places, which = torch.unique(numbers % len(request.words), return_inverse=True)
    vocabulary = tell([request.words[place] for place in places.tolist()])
    parts = []
    size = max(1, batch // len(request.scales))
    for begin in range(0, len(numbers), size):
        some, condition = numbers[begin : begin + size], vocabulary.take(which[begin : begin + size])
        latents = sample_latents(trained, request.sampler, condition, some, seed=request.seed, scales=request.scales)
        parts.append(round_pixels(decode_samples(trained, latents)).cpu())
        advance(len(some))
    return torch.cat(parts, dim=1)


def _claim(out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a finished set of this request, or nothing; a folder that holds another request is refused."""
    drop_leftovers(out, MANIFEST, _REQUEST, "samples.npz")
    finished = _read_claim(out, record)
    if finished is not None:
        return finished
    if any(out.iterdir()):
        raise ck.ConflictError(ck.Problem(str(out), "something else lies there", "an empty folder", "choose another --out"))
    write_atomic(out / _REQUEST, (json.dumps(record, indent=2) + "\n").encode(), out)
    return {}


def _await_claim(out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The same, once the first process has claimed the folder."""
    while (finished := _read_claim(out, record)) is None:
        time.sleep(_PAUSE)
    return finished


def _read_claim(out: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A manifest, {} for an unfinished set, None where nobody has claimed the folder. Raises ConflictError for another request."""
    for name in (MANIFEST, _REQUEST):
        try:
            before = json.loads((out / name).read_bytes())
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ck.ConflictError(ck.Problem(str(out / name), f"no JSON: {error}", "a set of samples", "choose another --out")) from None
        before = before if isinstance(before, dict) else {}
        differs = next((field for field in record if before.get(field) != record[field]), None)
        if differs:
            found, expected = f"other samples: {differs} is {before.get(differs)!r:.60}", f"{record[differs]!r:.60}"
            raise ck.ConflictError(ck.Problem(str(out / name), found, expected, "choose another --out"))
        return before if name == MANIFEST else {}
    return None


def _make_shard(
    trained: Trained, request: Request, tell: Tell, out: Path, start: int, *, batch: int, advance: Callable[[int], object]
) -> None:
    numbers = torch.arange(start, min(start + SHARD, request.count))
    if _is_whole(out, request, start):
        advance(len(numbers))
        return
    for scale, images in zip(request.scales, sample_numbers(trained, request, tell, numbers, batch, advance), strict=True):
        file = _shard_file(out, request, scale, start)
        file.parent.mkdir(exist_ok=True)
        drop_leftovers(file.parent, file.name)
        pixels = images.permute(0, 2, 3, 1).numpy()
        with open_atomic(file, file.parent) as opened:
            if request.format == "npz":
                np.save(opened, pixels)
            else:
                _write_tar(opened, request, scale, start, pixels)


def _scale_folder(out: Path, scale: float) -> Path:
    """`s1.5`, `s2`: the shortest digits that tell two scales apart."""
    return out / f"s{scale!r}".removesuffix(".0")


def _array_file(out: Path, scale: float) -> Path:
    return _scale_folder(out, scale) / "samples.npz"


def _shard_file(out: Path, request: Request, scale: float, start: int) -> Path:
    return _scale_folder(out, scale) / f"{start:09d}.{'tar' if request.format == 'tar' else 'npy'}"


def _is_whole(out: Path, request: Request, start: int) -> bool:
    """Whether a shard is there at every scale, or already part of an array."""
    return all(_shard_file(out, request, scale, start).exists() or _array_file(out, scale).exists() for scale in request.scales)


def _write_tar(opened: BinaryIO, request: Request, scale: float, start: int, pixels: np.ndarray) -> None:
    suffix = "cls" if request.kind == "class" else "txt"
    with tarfile.open(fileobj=opened, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image in enumerate(pixels, start):
            _add_member(tar, f"{number:09d}.png", _encode_png(image))
            _add_member(tar, f"{number:09d}.{suffix}", request.word(number).encode())
            _add_member(tar, f"{number:09d}.json", json.dumps({"number": number, "scale": scale}).encode())


def _encode_png(image: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(held, "PNG")
    return held.getvalue()


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _finish(out: Path, request: Request, record: Mapping[str, Any]) -> dict[str, Any]:
    """Join what is to be joined, then write the manifest."""
    files = []
    for scale in request.scales:
        parts = [_shard_file(out, request, scale, start) for start in request.starts()]
        if request.format == "npz":
            file = _array_file(out, scale)
            if not file.exists():
                with open_atomic(file, out) as opened:
                    _join_arrays(opened, request, parts)
            for part in parts:
                part.unlink(missing_ok=True)
            files.append(file)
        else:
            files += parts
    manifest = {**record, "files": [_describe_file(out, file) for file in files]}
    write_atomic(out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode(), out)
    (out / _REQUEST).unlink(missing_ok=True)
    return manifest


def _join_arrays(opened: BinaryIO, request: Request, parts: Iterable[Path]) -> None:
    """One npz of many arrays, of which only one is in memory at a time."""
    arrays = (np.load(part) for part in parts)
    head = next(arrays)
    stated = {"descr": "|u1", "fortran_order": False, "shape": (request.count, *head.shape[1:])}
    with zipfile.ZipFile(opened, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, stated)
            for array in (head, *arrays):
                member.write(array.tobytes())
        if request.kind == "class":
            with archive.open("arr_1.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.array([int(request.word(i)) for i in range(request.count)], np.int64))


def _describe_file(out: Path, file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"path": file.relative_to(out).as_posix(), "bytes": file.stat().st_size, "sha256": digest}


def _check_files(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """A finished set's manifest, if its files are what it says."""
    for stated in manifest["files"]:
        file = out / stated["path"]
        found = "it is not there" if not file.exists() else "" if _describe_file(out, file) == stated else "its SHA-256 is another"
        if found:
            raise ck.IntegrityError(ck.Problem(str(file), found, f"what {MANIFEST} says", "remove the folder and sample anew"))
    return manifest
