"""Runs on data that lie on a server: a source, an overlay of it, and latents of its images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import corruptkit as ck
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.config import RunConfig
from corruptkit_train.run import train_run
from tests.train.small import small_run, write_pictures
from tests.web import Web, serve_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*they are read once, from end to end")  # tars without side-cars, as announced
SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.25")])


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_pictures(tmp_path / "served" / "src")
    with serve_folder(tmp_path / "served") as web:
        yield web


def train_weights(config: RunConfig, data: str | Path, out: Path) -> dict[str, torch.Tensor]:
    train_run(config, data, out)
    return find_checkpoints(out)[-1].tensors("weights")


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_source_on_a_server_trains_as_its_copy_here(web: Web, tmp_path: Path) -> None:
    config = small_run(images=32)
    here = train_weights(config, tmp_path / "served" / "src", tmp_path / "here")
    assert same_weights(here, train_weights(config, f"{web.url}/src/", tmp_path / "there"))


def test_an_overlay_of_a_source_on_a_server_trains_as_one_of_its_copy(web: Web, tmp_path: Path) -> None:
    config = small_run(images=32, condition={"kind": "text"})
    found = []
    for name, place in (("here", tmp_path / "served" / "src"), ("there", f"{web.url}/src/")):
        dataset = ck.open_dataset(place)
        ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / f"swap-{name}", "overlay")
        found.append(train_weights(config, tmp_path / f"swap-{name}", tmp_path / name))
    assert same_weights(*found)


def test_a_variant_on_a_server_is_refused(web: Web, tmp_path: Path) -> None:
    dataset = ck.open_dataset(tmp_path / "served" / "src")
    ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / "served" / "swap", "webdataset")
    with pytest.raises(ck.DatasetError, match="a variant on a server, which is not verified from here"):
        train_run(small_run(condition={"kind": "text"}), f"{web.url}/swap/", tmp_path / "run")
    assert not (tmp_path / "run").exists()
