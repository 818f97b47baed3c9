"""Checkpoints appear whole or not at all, are refused where they are damaged, and are kept by rule."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import corruptkit as ck
from corruptkit_train import checkpoint as module
from corruptkit_train.checkpoint import drop_checkpoints, find_checkpoints, load_optimiser, optimiser_tensors, save_checkpoint


def parts(value: float, size: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"a": torch.full((size,), value), "b.c": torch.tensor(value)} for name in ("weights", "average", "optimiser")}


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    for images in (100, 20):
        save_checkpoint(tmp_path, parts(images), {"images": images, "updates": 3, "data": {"variant_id": "x"}})
    first, second = find_checkpoints(tmp_path)
    assert (first.images, second.images) == (20, 100)
    assert torch.equal(second.tensors("average")["a"], torch.full((4,), 100.0))
    assert second.state["data"] == {"variant_id": "x"}
    assert second.state["updates"] == 3


def test_the_same_place_reached_again_replaces_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        save_checkpoint(tmp_path, parts(value), {"images": 5})
    (only,) = find_checkpoints(tmp_path)
    assert float(only.tensors("weights")["b.c"]) == 2.0


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, parts(1.0), {"images": 5})
    for name in (".partial", ".partial-000000000003"):
        (tmp_path / "checkpoints" / name).mkdir()
        (tmp_path / "checkpoints" / name / "weights.safetensors").write_bytes(b"half")
    assert [found.images for found in find_checkpoints(tmp_path)] == [5]
    save_checkpoint(tmp_path, parts(2.0), {"images": 9})
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["000000000005", "000000000009"]  # noqa: PTH208 - names alone


@pytest.mark.parametrize("keep_every", [0, 40])
def test_the_newest_and_the_multiples_stay(tmp_path: Path, keep_every: int) -> None:
    for images in range(10, 101, 10):
        save_checkpoint(tmp_path, parts(0.0), {"images": images})
        drop_checkpoints(tmp_path, 2, keep_every)
    assert [found.images for found in find_checkpoints(tmp_path)] == ([40, 80] if keep_every else []) + [90, 100]
    assert len(list((tmp_path / "checkpoints").iterdir())) == (4 if keep_every else 2)


def test_the_first_at_or_after_a_multiple_stays(tmp_path: Path) -> None:
    """Steps of 48 images reach no multiple of 100 before 1,200; none of them would stay for the wait."""
    for images in range(48, 481, 48):
        save_checkpoint(tmp_path, parts(0.0), {"images": images})
        drop_checkpoints(tmp_path, 1, 100)
    assert [found.images for found in find_checkpoints(tmp_path)] == [144, 240, 336, 432, 480]


def test_a_damaged_part_is_refused_by_name(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, parts(1.0), {"images": 5})
    file = saved / "average.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (found,) = find_checkpoints(tmp_path)
    found.tensors("weights")
    with pytest.raises(ck.IntegrityError, match=r"average\.safetensors: its SHA-256 is not that of state\.json"):
        found.tensors("average")
    file.unlink()
    with pytest.raises(ck.IntegrityError, match=r"average\.safetensors: cannot be read"):
        found.tensors("average")
    (saved / "state.json").write_text('{"images": 5}')
    with pytest.raises(ck.IntegrityError, match=r"state\.json: cannot be read"):
        find_checkpoints(tmp_path)


def test_a_state_without_its_folder_of_digests_is_refused(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, parts(1.0), {"images": 5})
    state = json.loads((saved / "state.json").read_text())
    del state["sha256"]["average"]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(ck.IntegrityError, match="cannot be read"):
        find_checkpoints(tmp_path)[0].tensors("average")


@pytest.mark.parametrize("moment", ["weights", "average", "optimiser", "state", "rename"])
def test_a_failure_at_any_moment_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    save_checkpoint(tmp_path, parts(1.0), {"images": 5})
    write, state = module._write_tensors, module._write_state

    def fail(file: Path, content: object) -> object:
        if file.name.startswith(moment):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(file))
        return state(file, content) if file.suffix == ".json" else write(file, content)  # type: ignore[arg-type]

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_tensors", fail)
    monkeypatch.setattr(module, "_write_state", fail)
    if moment == "rename":
        monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ck.DatasetError, match="no space left on the device; free some space"):
        save_checkpoint(tmp_path, parts(2.0), {"images": 9})
    monkeypatch.undo()
    (only,) = find_checkpoints(tmp_path)
    assert only.images == 5
    assert os.listdir(tmp_path / "checkpoints") == [only.path.name]  # noqa: PTH208 - names alone


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("a small disk takes the right to mount")
    return disk


def test_a_full_disk_leaves_the_old_one(small_disk: Path) -> None:
    """The real thing: what safetensors says of a full disk becomes the line that a person reads."""
    try:
        save_checkpoint(small_disk, parts(1.0), {"images": 5})
        with pytest.raises(ck.DatasetError, match="no space left on the device"):
            save_checkpoint(small_disk, parts(2.0, size=200_000), {"images": 9})
        (only,) = find_checkpoints(small_disk)
        assert float(only.tensors("weights")["b.c"]) == 1.0
        save_checkpoint(small_disk, parts(3.0), {"images": 11})
    finally:
        subprocess.run(["umount", small_disk], check=True)


def test_an_optimiser_goes_on_where_it_was() -> None:
    def train(net: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
        for step in range(steps):
            net(torch.full((2, 3), float(step + 1))).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    other = nn.Linear(3, 2)
    one, two = (torch.optim.AdamW(part.parameters(), lr=0.1, fused=True) for part in (net, other))
    train(net, one, 3)
    other.load_state_dict(net.state_dict())
    load_optimiser(two, other, {name: tensor.clone() for name, tensor in optimiser_tensors(one, net).items()})
    train(net, one, 2)
    train(other, two, 2)
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)
