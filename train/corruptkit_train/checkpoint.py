"""Checkpoints: folders that appear whole or not at all, without pickle, named by the images seen.

checkpoints/000000128000/weights.safetensors     the network, float32
                         average.safetensors     its moving average
                         optimiser.safetensors   moments and steps, by the parameter's name
                         state.json              images, updates, run digest, data identity, versions, SHA-256 of the others
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import corruptkit as ck
from corruptkit.files import explain_disk, sync_path
from corruptkit_train.sharding import spread_tensor

FOLDER = "checkpoints"
_PARTS = ("weights", "average", "optimiser")
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    """What a run resumes from."""

    path: Path
    state: Mapping[str, Any]

    @property
    def images(self) -> int:
        return int(self.state["images"])

    def tensors(self, part: str) -> dict[str, Tensor]:
        """Tensors of a part by name. Raises IntegrityError where its bytes are not those that were written."""
        file = self.path / f"{part}.safetensors"
        with _name_damage(file):
            found = _sha256(file)
            if found != self.state["sha256"][part]:
                raise ck.IntegrityError(ck.Problem(str(file), "its SHA-256 is not that of state.json", do="remove the checkpoint's folder"))
            with safe_open(file, "pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict


def save_checkpoint(out: Path, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint beside the others; a full disk leaves them as they are. Raises DatasetError."""
    folder = out / FOLDER
    final, partial = folder / f"{state['images']:012d}", folder / _PARTIAL
    with explain_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_PARTIAL}*"):  # of a process that was killed while it wrote or removed one
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            partial.mkdir()
            digests = {part: _write_tensors(partial / f"{part}.safetensors", parts[part]) for part in _PARTS}
            _write_state(partial / "state.json", {**state, "sha256": digests})
            if final.exists():  # the same place reached once more, after a resume from before it
                _discard(final)
            partial.rename(final)
            sync_path(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return final


def find_checkpoints(out: Path) -> list[Checkpoint]:
    """The whole checkpoints of a run, oldest first."""
    found = []
    for path in sorted((out / FOLDER).glob("[0-9]" * 12)):
        file = path / "state.json"
        try:
            state = json.loads(file.read_text())
            found.append(Checkpoint(path, {**state, "images": int(state["images"]), "sha256": dict(state["sha256"])}))
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise ck.IntegrityError(ck.Problem(str(file), f"cannot be read: {error}", do="remove the checkpoint's folder")) from None
    return found


def drop_checkpoints(out: Path, keep: int, keep_every: int, *, upto: int | None = None) -> None:
    """Remove all but the newest `keep` and the first at or after each multiple of `keep_every` images.

    What lies beyond `upto` images is not looked at.
    """
    found = [checkpoint for checkpoint in find_checkpoints(out) if upto is None or checkpoint.images <= upto]
    for before, checkpoint in zip([None, *found], found[:-keep], strict=False):
        # Batches need not divide `keep_every`: a checkpoint at the multiple itself there may never be.
        passed = 0 if before is None else before.images // max(1, keep_every)
        if not keep_every or checkpoint.images // keep_every == passed:
            _discard(checkpoint.path)


def optimiser_tensors(optimiser: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """An optimiser's state by parameter: `NAME:exp_avg`, `NAME:step` ..."""
    return {
        f"{name}:{field}": torch.as_tensor(value).detach()
        for name, weight in module.named_parameters()
        for field, value in optimiser.state[weight].items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put a stored state back, all of it on each parameter's device, as a fused optimiser has it."""
    weights = dict(module.named_parameters())
    for key, value in tensors.items():
        name, _, field = key.rpartition(":")
        optimiser.state[weights[name]][field] = spread_tensor(value, weights[name])


def _write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write, sync and digest."""
    try:
        save_file(_copy_tied(tensors), file)
    except SafetensorError as error:
        raise OSError(_disk_errno(error), str(error), str(file)) from None
    sync_path(file)
    return _sha256(file)


def _copy_tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in main memory; one that has two names, as T5's embedding of words, is there twice."""
    found: dict[str, Tensor] = {}
    held = set[int]()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        found[name] = here.clone() if here.data_ptr() in held else here
        held.add(here.data_ptr())
    return found


def _disk_errno(error: SafetensorError) -> int:
    """The system's number in what safetensors says: `... (os error 28)`."""
    digits = str(error).rpartition("os error ")[2].partition(")")[0]
    return int(digits) if digits.isdigit() else 5


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def _write_state(file: Path, state: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(state, indent=2, sort_keys=True))
    sync_path(file)


def _discard(folder: Path) -> None:
    """Remove a checkpoint; renamed first, since a half-removed folder would look like a damaged one."""
    doomed = folder.with_name(f"{_PARTIAL}-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


@contextmanager
def _name_damage(file: Path) -> Iterator[None]:
    """One line for a part that is missing or no safetensors file."""
    try:
        yield
    except (OSError, SafetensorError, LookupError, TypeError) as error:
        raise ck.IntegrityError(ck.Problem(str(file), f"cannot be read: {error}", do="remove the checkpoint's folder")) from None
