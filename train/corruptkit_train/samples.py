"""Sample sets on the disk: PNGs in tars or one array, and a manifest that names the checkpoint they are from.

OUT/s1.5/000000.tar      KEY.png and KEY.json (scale, condition, image number), 1,000 images a tar
OUT/s1.5/samples.npz     or: arr_0 (N, H, W, C) uint8, arr_1 class ids, as the ADM evaluator reads it
OUT/samples.json         the request, the checkpoint's digests, SHA-256 of every file; written last
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import corruptkit as ck
from corruptkit.files import explain_disk, lock_folder, open_atomic, write_atomic
from corruptkit_train.checkpoint import Checkpoint
from corruptkit_train.conditions import Condition
from corruptkit_train.sampling import SamplerConfig, Trained, sample_latents, split_numbers, to_pixels

_SHARD = 1000
MANIFEST = "samples.json"
_REQUEST = "request.json"


@dataclass(frozen=True)
class Request:
    """What to sample: it decides every pixel, apart from rounding."""

    count: int
    scales: tuple[float, ...]
    seed: int
    words: tuple[str, ...]  # what image i shows is words[i mod len]: captions, or class ids in decimal
    sampler: SamplerConfig
    weights: Literal["average", "raw"]
    format: Literal["tar", "npz"] = "tar"

    def record(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The request as it stands in the manifest."""
        words = hashlib.sha256("\n".join(self.words).encode()).hexdigest()
        part = {"average": "average", "raw": "weights"}[self.weights]
        return {
            "run": checkpoint.state["run"],
            "variant_id": checkpoint.state["data"]["variant_id"],
            "images_seen": checkpoint.images,
            "weights": self.weights,
            "weights_sha256": checkpoint.state["sha256"][part],
            "count": self.count,
            "scales": list(self.scales),
            "seed": self.seed,
            "words_sha256": words,
            "words": len(self.words),
            "sampler": self.sampler.model_dump(mode="json"),
            "rounding": "round((clamp(x, -1, 1) + 1) * 127.5)",
            "format": self.format,
        }


def write_samples(
    trained: Trained,
    checkpoint: Checkpoint,
    request: Request,
    vocabulary: Condition,
    out: Path,
    *,
    batch: int,
    watch: Any = None,
) -> dict[str, Any]:
    """Sample what is missing in `out`; gives the manifest. `vocabulary` holds the condition of each of the request's words.

    Raises ConflictError where `out` holds another request.
    """
    record = request.record(checkpoint)
    with explain_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out):
            _claim(out, record)
            step = _SHARD if request.format == "tar" else request.count
            starts = [start for start in range(0, request.count, step) if not _whole(out, request, start)]
            for start in watch(starts, len(starts)) if watch else starts:
                numbers = torch.arange(start, min(start + step, request.count))
                pixels = sample_numbers(trained, request, vocabulary, numbers, batch)
                for scale, images in zip(request.scales, pixels, strict=True):
                    _write_shard(out, request, scale, numbers, images)
            manifest = record | {"files": _digest_files(out, request)}
            write_atomic(out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode(), out)
            (out / _REQUEST).unlink(missing_ok=True)
    return manifest


def sample_numbers(trained: Trained, request: Request, vocabulary: Condition, numbers: Tensor, batch: int) -> Tensor:
    """(S, N, C, H, W) uint8 for some image numbers: a batch holds `batch` images over all scales."""
    parts = []
    for _, some in split_numbers(numbers, max(1, batch // len(request.scales))):
        condition = vocabulary.take(some % len(request.words))
        latents = sample_latents(trained, request.sampler, condition, some, seed=request.seed, scales=request.scales)
        parts.append(to_pixels(latents).cpu())
    return torch.cat(parts, dim=1)


def _claim(out: Path, record: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another request, finished or not."""
    for name in (MANIFEST, _REQUEST):
        file = out / name
        if file.exists():
            before = json.loads(file.read_text())
            differs = next((field for field in record if before.get(field) != record[field]), None)
            if differs:
                found, expected = f"other samples: {differs} is {before.get(differs)!r:.60}", f"{record[differs]!r:.60}"
                raise ck.ConflictError(ck.Problem(str(file), found, expected, "choose another --out"))
            return
    if any(out.iterdir()):
        raise ck.ConflictError(ck.Problem(str(out), "something else lies there", "an empty folder", "choose another --out"))
    write_atomic(out / _REQUEST, (json.dumps(record, indent=2) + "\n").encode(), out)


def _file(out: Path, request: Request, scale: float, start: int) -> Path:
    name = f"{start:06d}.tar" if request.format == "tar" else "samples.npz"
    return out / f"s{scale:g}" / name


def _whole(out: Path, request: Request, start: int) -> bool:
    return all(_file(out, request, scale, start).exists() for scale in request.scales)


def _write_shard(out: Path, request: Request, scale: float, numbers: Tensor, images: Tensor) -> None:
    file = _file(out, request, scale, int(numbers[0]))
    file.parent.mkdir(exist_ok=True)
    pixels = images.permute(0, 2, 3, 1).numpy()
    with open_atomic(file, file.parent) as opened:
        if request.format == "npz":
            if request.words[0].isdigit():
                np.savez(opened, arr_0=pixels, arr_1=_class_ids(request))
            else:
                np.savez(opened, arr_0=pixels)
            return
        with tarfile.open(fileobj=opened, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, image in zip(numbers.tolist(), pixels, strict=True):
                word = request.words[number % len(request.words)]
                _add_member(tar, f"{number:06d}.png", _encode_png(image))
                _add_member(tar, f"{number:06d}.json", json.dumps({"number": number, "scale": scale, "condition": word}).encode())


def _class_ids(request: Request) -> np.ndarray:
    return np.array([int(request.words[number % len(request.words)]) for number in range(request.count)], np.int64)


def _encode_png(image: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(held, "PNG")
    return held.getvalue()


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _digest_files(out: Path, request: Request) -> list[dict[str, Any]]:
    found = []
    for scale in request.scales:
        for file in sorted((out / f"s{scale:g}").iterdir()):
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found.append({"path": file.relative_to(out).as_posix(), "bytes": file.stat().st_size, "sha256": digest})
    return found


def read_words(prompts: str | None, labels: str | None, classes: int | None) -> Sequence[str]:
    """The words of a request: the lines of a file, or class ids. Raises CatalogError."""
    if classes is not None:
        if prompts:
            raise ck.CatalogError(ck.Problem("--prompts", "captions for a model of classes", "--labels", "name classes"))
        found = labels.split(",") if labels else [str(number) for number in range(classes)]
        wrong = next((word for word in found if not (word.isascii() and word.isdigit() and int(word) < classes)), None)
        if wrong is not None:
            raise ck.CatalogError(ck.Problem("--labels", f"found '{wrong}'", f"classes from 0 to {classes - 1}", "mend the list"))
        return found
    if labels or not prompts:
        raise ck.CatalogError(ck.Problem("--prompts", "no captions for a model of text", "a file of captions", "state --prompts FILE"))
    try:
        lines = [line for line in Path(prompts).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ck.CatalogError(ck.Problem(prompts, f"cannot be read: {error}", "text, a caption a line", "mend the file")) from None
    if not lines:
        raise ck.CatalogError(ck.Problem(prompts, "no captions", "a caption a line", "fill the file"))
    return lines
