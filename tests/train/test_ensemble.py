"""Laws of an ensemble: each model is the one that is trained alone, whenever it ended, and what does not go together is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import corruptkit as ck
from corruptkit_train import ensemble, images
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.cli import main
from corruptkit_train.conditions import Condition
from corruptkit_train.config import RunConfig, parse_config
from corruptkit_train.ensemble import Member, train_ensemble
from corruptkit_train.ensemble_sampling import sample_ensemble
from corruptkit_train.latent_cache import make_cache
from corruptkit_train.models import build_model
from corruptkit_train.objectives import Velocity
from corruptkit_train.run import train_run
from corruptkit_train.sampling import SamplerConfig, Trained, sample_latents
from tests.train.networks import KINDS, SHAPE, draw_some, save_autoencoder, wake_weights
from tests.train.small import latent_run, small_run, write_pictures

PARTS = ("weights", "average", "optimiser")
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "width": 32, "depth": 2, "condition_width": 16},
    "dit": {"kind": "dit", "depth": 2, "width": 32, "heads": 2, "patch": 4},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src")


def make_variant(source: Path, out: Path, ratio: str = "0.25") -> Path:
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio=ratio)]), dataset.index())
    ck.write_variant(dataset, plan, out, "overlay")
    return out


def small_member(kind: str = "mlp", **changes: Any) -> RunConfig:
    # A rate at which 100 steps do not multiply what rounding begins.
    table = small_run().model_dump(mode="json") | {"model": MODELS[kind], "objective": {"kind": "v"}}
    table["optimiser"] |= {"rate": 3e-4, "warmup": 64}
    for name, value in changes.items():
        table[name] = {**table[name], **value} if isinstance(value, dict) else value
    return parse_config(table, "test")


def pair(source: Path, **changes: Any) -> dict[str, Member]:
    """A clean run and one with CEP-U."""
    perturbed = small_member(perturbation=[{"kind": "cep"}], **changes)
    return {"clean": Member(small_member(**changes), source), "cep": Member(perturbed, source)}


def saved(out: Path, seen: int) -> dict[str, bytes]:
    return {part: (out / "checkpoints" / f"{seen:012d}" / f"{part}.safetensors").read_bytes() for part in PARTS}


def difference(one: Path, other: Path, seen: int, part: str) -> float:
    mine, theirs = (load_file(run / "checkpoints" / f"{seen:012d}" / f"{part}.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys()
    assert all(mine[name].shape == theirs[name].shape for name in mine)
    apart = sum(float((mine[name] - theirs[name]).double().square().sum()) for name in mine)
    return (apart / sum(float(theirs[name].double().square().sum()) for name in theirs)) ** 0.5


@pytest.mark.parametrize("model", MODELS)
def test_one_of_an_ensemble_is_the_model_trained_alone(source: Path, tmp_path: Path, model: str) -> None:
    """100 fp32 steps, with every way in which members may differ: to 1e-5, the same files, the same run."""
    variant = make_variant(source, tmp_path / "flip.overlay")
    (tmp_path / "flip.toml").write_text('seed = 0\n[[chain]]\nkind = "flip"\nratio = "0.25"\n')
    gauss = {"kind": "cep", "distribution": "gaussian", "fixed": True, "null": False, "share": 0.7}
    settings: dict[str, tuple[dict[str, Any], Path]] = {
        "clean": ({}, source),
        "other-seed": ({"seed": 5}, variant),
        "flip": ({}, variant),
        "cep": ({"perturbation": [{"kind": "cep"}]}, source),
        "fixed-cep": ({"perturbation": [gauss], "seed": 5}, source),
        "input": ({"perturbation": [{"kind": "input"}]}, variant),
        "smoothing": ({"perturbation": [{"kind": "smoothing"}, {"kind": "dropout"}], "condition": {"dropout": 0.3}}, source),
        "each-epoch": ({"condition": {"each_epoch": str(tmp_path / "flip.toml")}}, source),
        "rate": ({"optimiser": {"rate": 2e-4}}, source),
    }
    members = {name: Member(small_member(model, images=1600, **changes), data) for name, (changes, data) in settings.items()}
    train_ensemble(members, tmp_path / "all")
    for name in members if model == "mlp" else ("flip", "fixed-cep", "smoothing"):
        train_run(members[name].config, members[name].data, tmp_path / "alone" / name)
        together, alone = tmp_path / "all" / name, tmp_path / "alone" / name
        for part in PARTS:
            assert difference(together, alone, 1600, part) < 1e-5, (name, part)
        mine, theirs = (json.loads((run / "run.json").read_text()) for run in (together, alone))
        assert mine == theirs
        lines = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (together, alone)]
        assert [line.keys() for line in lines[0]] == [line.keys() for line in lines[1]]
        for field in ("images", "loss", "mse", "gradient_norm", "embedding_norm", "delta_norm", "rate", "decay"):
            assert lines[0][-1][field] == pytest.approx(lines[1][-1][field], rel=1e-3), field
    assert difference(tmp_path / "all" / "clean", tmp_path / "all" / "flip", 1600, "weights") > 1e-4, "settings do differ"


@pytest.mark.parametrize("how", ["pooled", "tokens", "trained"])
def test_members_of_text_are_runs_of_text(source: Path, tmp_path: Path, tiny: Path, how: str) -> None:
    """Pooled states, and masked tokens of a UNet; transformers' code of an encoder that is trained along cannot be batched."""
    encoder = {"name": str(tiny), "output": "pooled" if how == "pooled" else "tokens", "max_tokens": 6, "train": how == "trained"}
    unet = {"kind": "unet", "channels": [8, 16], "attention": [False, True], "layers": 1, "norm_groups": 4, "heads": 2}
    table = small_member(images=64).model_dump(mode="json") | {"condition": {"kind": "text", "encoder": encoder}}
    if how != "pooled":
        table["model"] = unet
    runs = {"clean": table, "cep": table | {"perturbation": [{"kind": "cep"}]}, "other-seed": table | {"seed": 3}}
    members = {name: Member(parse_config(run, "test"), source) for name, run in runs.items()}
    if how == "trained":
        with pytest.raises(ck.CatalogError, match="ensemble: a UNet that torch cannot batch over weights"):
            train_ensemble(members, tmp_path / "all")
        return
    train_ensemble(members, tmp_path / "all")
    for name, member in members.items():
        train_run(member.config, source, tmp_path / name)
        assert difference(tmp_path / "all" / name, tmp_path / name, 64, "weights") < 1e-5


def test_gradients_are_clipped_each_by_its_own_norm(source: Path, tmp_path: Path) -> None:
    """A member with large gradients leaves the others' as they are."""
    loud = {"kind": "input", "gamma": 100.0}
    members = {
        name: Member(small_member(optimiser={"clip": 0.05}, perturbation=parts), source) for name, parts in (("calm", []), ("loud", [loud]))
    }
    train_ensemble(members, tmp_path / "all")
    for name, member in members.items():
        train_run(member.config, source, tmp_path / name)
        assert difference(tmp_path / "all" / name, tmp_path / name, 128, "optimiser") < 1e-5


def test_images_are_read_once_for_each_seed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    load = images.Pictures.load
    monkeypatch.setattr(images.Pictures, "load", lambda self, rows, numbers, seed: (loads.append(seed), load(self, rows, numbers, seed))[1])
    members = pair(source, images=32) | {name + "-2": member for name, member in pair(source, images=32, seed=2).items()}
    train_ensemble(members, tmp_path / "all")
    assert sorted(loads) == [0, 0, 2, 2]  # two steps of each seed, four members


def test_members_on_latents_are_runs_on_latents(source: Path, tmp_path: Path) -> None:
    """One cache, posteriors drawn for each seed."""
    config = latent_run(save_autoencoder(tmp_path / "autoencoder"), data={"flip": True})
    cache = make_cache(config, ck.open_dataset(source), tmp_path / "cache") and tmp_path / "cache"
    members = {f"seed-{seed}": Member(config.model_copy(update={"seed": seed}), source) for seed in (0, 1)}
    with pytest.raises(ck.CatalogError, match="--latents: no cache for a run of latents"):
        train_ensemble(members, tmp_path / "all")
    train_ensemble(members, tmp_path / "all", latents=cache)
    for name, member in members.items():
        train_run(member.config, source, tmp_path / name, latents=cache)
        assert difference(tmp_path / "all" / name, tmp_path / name, config.images, "weights") < 1e-5


class Numbers:
    """Numbers of no image, in a shape that the run's images have."""

    held, ahead = True, False

    def __len__(self) -> int:
        return 32

    def load(self, rows: torch.Tensor, numbers: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG002 - a Feed's
        return draw_some((32, 3, 8, 8))[rows], rows

    def prepare(self, images: torch.Tensor, numbers: torch.Tensor, seed: int) -> torch.Tensor:  # noqa: ARG002 - a Feed's
        return images


def test_something_else_may_be_read_in_the_place_of_images(source: Path, tmp_path: Path) -> None:
    train_ensemble(pair(source), tmp_path / "all", feed=Numbers())
    train_ensemble(pair(source), tmp_path / "images")
    assert difference(tmp_path / "all" / "cep", tmp_path / "images" / "cep", 128, "weights") > 1e-3


def test_a_stopped_ensemble_goes_on_to_the_bit(source: Path, tmp_path: Path) -> None:
    members = pair(source) | {"rate": Member(small_member(optimiser={"rate": 1e-3}, seed=3), source)}
    train_ensemble(members, tmp_path / "whole")
    train_ensemble(members, tmp_path / "halves", images=64)
    train_ensemble(members, tmp_path / "halves")
    for name in members:
        assert saved(tmp_path / "whole" / name, 128) == saved(tmp_path / "halves" / name, 128)


def test_killed_between_two_members_it_goes_on_from_what_all_have(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One member has the newer checkpoint, and with keep = 1 nothing was removed before all had it."""
    members = pair(source, machine={"save": 32, "keep": 1})
    train_ensemble(members, tmp_path / "whole")
    save, written = ensemble.save_checkpoint, []

    def fail(out: Path, parts: Any, state: Any) -> Path:
        if len(written) == 3:
            raise SystemExit
        written.append(out.name)
        return save(out, parts, state)

    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "save_checkpoint", fail)
        with pytest.raises(SystemExit):
            train_ensemble(members, tmp_path / "killed")
    there = {name: [found.images for found in find_checkpoints(tmp_path / "killed" / name)] for name in members}
    assert sorted(there.values()) == [[32], [32, 64]]
    train_ensemble(members, tmp_path / "killed")
    for name in members:
        assert saved(tmp_path / "whole" / name, 128) == saved(tmp_path / "killed" / name, 128)
        assert [found.images for found in find_checkpoints(tmp_path / "killed" / name)] == [128]
        numbers = [json.loads(line)["images"] for line in (tmp_path / "killed" / name / "log.jsonl").read_text().splitlines()]
        assert numbers == [32, 64, 96, 128]


def test_sigterm_saves_all_members(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from tests.train.test_ensemble import pair; from corruptkit_train.ensemble import train_ensemble\n"
        f"train_ensemble(pair(Path({str(source)!r}), images=160_000), Path({str(tmp_path / 'run')!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "cep" / "log.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "KeyboardInterrupt" in process.communicate(timeout=600)[1]
    seen = {name: [found.images for found in find_checkpoints(tmp_path / "run" / name)] for name in ("clean", "cep")}
    assert seen["clean"] == seen["cep"]
    assert 0 < seen["cep"][0] < 160_000


def test_a_member_is_a_run_like_any_other(source: Path, tmp_path: Path) -> None:
    """It is sampled by the command, and `train_run` goes on with it; what then lies ahead of the others is refused, not overwritten."""
    members = pair(source)
    train_ensemble(members, tmp_path / "all")
    words = ["sample", str(tmp_path / "all" / "cep"), "--count", "4", "--out", str(tmp_path / "samples")]
    assert main(words) == 0
    train_run(members["cep"].config, source, tmp_path / "all" / "cep", images=160)
    assert [found.images for found in find_checkpoints(tmp_path / "all" / "cep")] == [128, 160]
    with pytest.raises(ck.CatalogError, match="found 128, expected at least 160, which it has been trained on"):
        train_ensemble(members, tmp_path / "all")
    shutil.copytree(tmp_path / "all" / "cep", tmp_path / "cep")
    train_ensemble(members, tmp_path / "all", images=192)
    train_run(members["cep"].config, source, tmp_path / "cep", images=192)
    assert difference(tmp_path / "all" / "cep", tmp_path / "cep", 192, "weights") < 1e-5


def test_a_loss_that_is_no_number_is_named(source: Path, tmp_path: Path) -> None:
    members = pair(source) | {"wild": Member(small_member(optimiser={"rate": 1e30}), source)}
    with pytest.raises(ck.IntegrityError, match=r"/wild: the (loss|gradient_norm) is (nan|inf) within the 32 images seen"):
        train_ensemble(members, tmp_path / "all")
    assert not find_checkpoints(tmp_path / "all" / "wild")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {"batch": 32}}, "member 'other': optimiser.batch is 32, expected 16 as in 'clean'; train it in another ensemble"),
        ({"objective": {"kind": "eps"}}, "member 'other': objective.kind is 'eps', expected 'v' as in 'clean'"),
        ({"model": {"width": 64}}, "member 'other': model.width is 64, expected 32 as in 'clean'"),
        ({"optimiser": {"betas": [0.9, 0.99]}}, r"member 'other': optimiser.betas.1 is 0.99, expected 0.999 as in 'clean'"),
        ({"machine": {"save": 32}}, "member 'other': machine.save is 32, expected 0 as in 'clean'"),
    ],
)
def test_what_one_pass_cannot_serve_is_refused_by_name(source: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    members = {"clean": Member(small_member(), source), "other": Member(small_member(**changes), source)}
    with pytest.raises(ck.CatalogError) as caught:
        train_ensemble(members, tmp_path / "all")
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "all").exists()


def test_what_an_ensemble_has_no_use_for_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ck.CatalogError, match=r"member 'clean': machine\.compile is True, expected False in an ensemble; leave it out"):
        train_ensemble(pair(source, machine={"compile": True}), tmp_path / "all")
    with pytest.raises(ck.CatalogError, match=r"members: found '\.\./up', expected a folder's name"):
        train_ensemble({"../up": Member(small_member(), source)}, tmp_path / "all")
    with pytest.raises(ck.CatalogError, match="members: found none, expected one or more"):
        train_ensemble({}, tmp_path / "all")


def test_another_source_and_a_network_that_cannot_be_batched_are_refused(source: Path, tmp_path: Path) -> None:
    other = write_pictures(tmp_path / "other", count=48)
    members = {"clean": Member(small_member(), source), "other": Member(small_member(), other)}
    with pytest.raises(
        ck.CatalogError, match=r"member 'other': the source's fingerprint is .* as in 'clean'; train on variants of one source"
    ):
        train_ensemble(members, tmp_path / "all")
    unet = {"kind": "pixel-unet", "channels": [16, 32], "attention": [False, True], "layers": 1, "norm_groups": 8, "head_width": 16}
    table = small_member().model_dump(mode="json") | {"model": unet}
    with pytest.raises(ck.CatalogError, match=r"ensemble: a UNet that torch cannot batch over weights \(.*; train and sample it alone"):
        train_ensemble({"clean": Member(parse_config(table, "test"), source)}, tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("kind", ["mlp-class", "dit-class", "dit-text", "unet-tokens"])
def test_sampling_all_is_sampling_each(kind: str) -> None:
    """To 1e-5, at every scale, from common starts; and the members do differ."""
    config, classes, text_width, tokens = KINDS[kind]
    how: dict[str, Any] = {"shape": SHAPE, "classes": classes, "text_width": text_width, "tokens": tokens}
    if classes is not None:
        condition, null = Condition(ids=torch.arange(4)), Condition(ids=torch.tensor([classes]))
    else:
        shape = (5, text_width) if tokens else (text_width,)
        mask = torch.arange(5) < torch.tensor([[5], [3], [4], [1]]) if tokens else None
        condition = Condition(states=draw_some((4, *shape)), mask=mask)
        null = Condition(states=draw_some((1, *shape), start=9), mask=None if mask is None else mask[3:])
    members = []
    for seed in range(3):
        network = wake_weights(build_model(config, seed=seed, **how)).requires_grad_(requires_grad=False)
        for weight in network.parameters():
            weight.mul_(1 + 0.1 * seed)
        members.append(Trained(network, Velocity(), null))
    request: dict[str, Any] = {"seed": 0, "scales": (1.0, 2.0, 3.5)}
    found = sample_ensemble(members, SamplerConfig(steps=4), condition, torch.arange(4), **request)
    assert found.shape == (3, 3, 4, *SHAPE)
    for mine, member in zip(found, members, strict=True):
        alone = sample_latents(member, SamplerConfig(steps=4), condition, torch.arange(4), **request)
        assert float((mine - alone).norm() / alone.norm()) < 1e-5
    assert float((found[0] - found[1]).norm() / found[0].norm()) > 0.01


def test_members_that_sample_otherwise_are_refused() -> None:
    config, classes, *_ = KINDS["mlp-class"]
    networks = [build_model(config.model_copy(update={"width": width}), shape=SHAPE, classes=classes, seed=0) for width in (32, 64)]
    null = Condition(ids=torch.tensor([classes]))
    members = [Trained(network, Velocity(), null) for network in networks]
    with pytest.raises(ck.CatalogError, match="network 1: weights of other names or shapes, expected those of network 0"):
        sample_ensemble(members, SamplerConfig(steps=4), null, torch.arange(1), seed=0, scales=(1.0,))
