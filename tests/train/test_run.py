"""Laws of a run: resumed is as if never stopped, clean and corrupted runs are pairs, and what is wrong ends in one line."""

from __future__ import annotations

import json
import os
import resource
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
from corruptkit_train import loop, step
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.config import RunConfig
from corruptkit_train.run import train_run
from tests.corruptkit.shards import Row, write_shards
from tests.train.small import picture, small_run, write_pictures

PARTS = ("weights", "average", "optimiser")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: with two threads they may be split otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src")


def variant_of(source: Path, out: Path, **flip: Any) -> Path:
    """A quarter of the labels flipped, as an overlay."""
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.25", **flip)]), dataset.index())
    ck.write_variant(dataset, plan, out, "overlay")
    return out


def saved(out: Path, images: int) -> dict[str, bytes]:
    return {part: (out / "checkpoints" / f"{images:012d}" / f"{part}.safetensors").read_bytes() for part in PARTS}


def write_run(config: RunConfig, file: Path) -> Path:
    file.write_text(json.dumps({"config": config.model_dump(mode="json")}))
    return file


def command(*words: object, **environment: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "corruptkit_train", *map(str, words)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def read_log(out: Path) -> list[dict[str, float]]:
    """What of the log is no matter of speed."""
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [{name: line[name] for name in ("images", "loss", "gradient_norm", "rate")} for line in lines]


VARIETY: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "data": {"flip": True, "crop": "random"},
        "perturbation": ({"kind": "cep", "distribution": "gaussian"}, {"kind": "smoothing"}, {"kind": "dropout"}, {"kind": "input"}),
        "objective": {"kind": "eps", "learned_variance": True, "min_snr": 5},
        "model": {"learned_variance": True},
        "optimiser": {"warmup": 64, "decay": 0.1},
    },
    "flow in bf16": {"objective": {"kind": "flow", "times": "logit_normal"}, "precision": "bf16", "sampler": {"name": "euler"}},
    "unet": {
        "model": {
            "kind": "unet",
            "channels": (8, 16),
            "attention": (False, True),
            "layers": 1,
            "norm_groups": 4,
            "heads": 2,
            "dropout": 0.5,
        }
    },
}


@pytest.mark.parametrize("variety", VARIETY)
def test_half_and_half_is_whole(source: Path, tmp_path: Path, variety: str) -> None:
    """N images straight are N/2, an end, and N/2 more, to the bit: weights, average, optimiser; whatever reads the images."""
    changes = dict(VARIETY[variety])
    if changes.get("model", {}).get("kind") == "unet":
        table = small_run().model_dump(mode="json") | {"model": changes["model"]}
        config = RunConfig.model_validate(table)
    else:
        config = small_run(**changes)
    train_run(config, source, tmp_path / "whole")
    train_run(config, source, tmp_path / "halves", images=64)
    other = config.model_copy(update={"machine": config.machine.model_copy(update={"workers": 2, "hold": 0})})
    train_run(other, source, tmp_path / "halves")
    assert saved(tmp_path / "whole", 128) == saved(tmp_path / "halves", 128)
    logs = [read_log(tmp_path / run) for run in ("whole", "halves")]
    assert logs[0] == logs[1]
    assert [line["images"] for line in logs[0]] == [32, 64, 96, 128]


def test_passes_of_a_step_add_up(source: Path, tmp_path: Path) -> None:
    """Gradients of four micro-batches are those of the batch, but for the order of sums."""
    config = small_run()
    train_run(config, source, tmp_path / "one")
    train_run(small_run(machine={"micro_batch": 4}), source, tmp_path / "four")
    one, four = (load_file(tmp_path / run / "checkpoints" / f"{128:012d}" / "weights.safetensors") for run in ("one", "four"))
    assert relative_difference(one, four) < 1e-5


def relative_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    apart = sum(float((one[name] - other[name]).double().square().sum()) for name in one)
    return (apart / sum(float(one[name].double().square().sum()) for name in one)) ** 0.5


def test_two_processes_are_one(source: Path, tmp_path: Path) -> None:
    """100 fp32 steps of one global batch on one process and on two (gloo): weights differ by sums alone."""
    config = write_run(small_run(images=1600), tmp_path / "run.json")
    assert finish(command("run", config, "--data", source, "--out", tmp_path / "one"))[0] == 0
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "corruptkit_train"]
    words = ["run", str(config), "--data", str(source), "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = subprocess.run([*line, *words], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert alone.returncode != 0
    assert "error: WORLD_SIZE: 2 processes that know nothing of each other; set ACCELERATE_USE_CPU=true" in alone.stderr
    both = subprocess.run(
        [*line, *words], env=environment | {"ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("trained  ") == 1
    one, two = (load_file(tmp_path / run / "checkpoints" / f"{1600:012d}" / "weights.safetensors") for run in ("one", "two"))
    assert 0 < relative_difference(one, two) < 1e-4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on(source: Path, tmp_path: Path, number: signal.Signals) -> None:
    config = write_run(small_run(images=4_800, machine={"save": 800, "report": 50}), tmp_path / "run.json")
    words = ("run", config, "--data", source, "--out")
    process = command(*words, tmp_path / "killed")
    while not find_checkpoints(tmp_path / "killed"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    status, _, err = finish(process)
    done = find_checkpoints(tmp_path / "killed")[-1].images
    assert done < 4_800
    if number == signal.SIGTERM:
        assert (status, err.splitlines()[-1]) == (130, "interrupted; start the same command again to resume")
    assert finish(command(*words, tmp_path / "killed"))[0] == 0
    assert finish(command(*words, tmp_path / "whole"))[0] == 0
    assert saved(tmp_path / "killed", 4_800) == saved(tmp_path / "whole", 4_800)


class Seen:
    """What the step is given, and what the network is given, by image number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, torch.Tensor]] = []
        forward = step.TrainingStep.forward

        def spy(module: step.TrainingStep, clean: Any, numbers: Any, rows: Any, condition: Any) -> Any:
            network = module.denoiser.forward

            def watch(sample: Any, timestep: Any, states: Any, mask: Any = None) -> Any:
                given = {"numbers": numbers, "rows": rows, "clean": clean, "ids": condition.ids}
                self.calls.append(given | {"sample": sample, "timestep": timestep})
                return network(sample, timestep, states, mask)

            with monkeypatch.context() as patch:
                patch.setattr(module.denoiser, "forward", watch)
                return forward(module, clean, numbers, rows, condition)

        monkeypatch.setattr(step.TrainingStep, "forward", spy)

    def take(self) -> dict[str, torch.Tensor]:
        found = {name: torch.cat([call[name] for call in self.calls]) for name in self.calls[0]}
        self.calls.clear()
        return found


def test_clean_and_corrupted_runs_are_pairs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same images, times and noises; conditions differ where the plan says, and nowhere else."""
    variant = variant_of(source, tmp_path / "flip.overlay")
    seen = Seen(monkeypatch)
    train_run(small_run(data={"flip": True}), source, tmp_path / "clean")
    clean = seen.take()
    train_run(small_run(data={"flip": True}), variant, tmp_path / "corrupted")
    corrupted = seen.take()
    for name in ("numbers", "rows", "clean", "sample", "timestep"):
        assert torch.equal(clean[name], corrupted[name]), name
    edits = ck.open_dataset(variant).edits
    assert edits is not None
    plan = {int(edit["key"]): (int(edit["old"]), int(edit["new"])) for edit in edits.to_pylist()}
    assert len(plan) == 8
    for row, before, after in zip(clean["rows"].tolist(), clean["ids"].tolist(), corrupted["ids"].tolist(), strict=True):
        assert (before, after) == plan.get(row, (before, before))


def test_conditions_are_corrupted_anew_in_each_epoch(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random data corruption (paper Table 7): in each epoch, what `with_recipe` of that epoch says."""
    (tmp_path / "flip.toml").write_text('seed = 0\n[[chain]]\nkind = "flip"\nratio = "0.25"\n')
    seen = Seen(monkeypatch)
    train_run(small_run(condition={"each_epoch": str(tmp_path / "flip.toml")}), source, tmp_path / "run")
    found = seen.take()
    dataset, recipe = ck.open_dataset(source), ck.load_recipe(tmp_path / "flip.toml")
    epochs = [dataset.with_recipe(recipe, epoch=epoch).index().numbers("label") for epoch in range(4)]
    assert len({tuple(labels.tolist()) for labels in epochs}) == 4
    for number, row, label in zip(found["numbers"].tolist(), found["rows"].tolist(), found["ids"].tolist(), strict=True):
        assert label == epochs[number // 32][row]


def test_what_was_trained_on_is_recorded(source: Path, tmp_path: Path) -> None:
    variant = variant_of(source, tmp_path / "flip.overlay")
    train_run(small_run(), variant, tmp_path / "run")
    manifest = ck.read_manifest(variant)
    (checkpoint,) = find_checkpoints(tmp_path / "run")
    for record in (json.loads((tmp_path / "run" / "run.json").read_text()), checkpoint.state):
        assert record["data"]["variant_id"] == manifest.variant_id
        assert record["data"]["recipe"] == manifest.identity["recipe"]
        assert record["data"]["spec"] == 1
        assert record["run"] == small_run().digest()


def test_another_variant_in_the_folder_is_refused(source: Path, tmp_path: Path) -> None:
    train_run(small_run(), source, tmp_path / "run")
    with pytest.raises(ck.ConflictError, match=r"run\.json: the data's fingerprint is .*, as it was begun; choose another --out"):
        train_run(small_run(), variant_of(source, tmp_path / "flip.overlay"), tmp_path / "run")
    with pytest.raises(ck.ConflictError, match=r"the run's optimiser\.rate is 0\.002, expected 0\.001, as it was begun"):
        train_run(small_run(optimiser={"rate": 0.002}), source, tmp_path / "run")
    train_run(small_run(machine={"report": 1}), source, tmp_path / "run", images=160)


def test_a_variant_that_fails_verification_is_refused(source: Path, tmp_path: Path) -> None:
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.25")]), dataset.index())
    ck.write_variant(dataset, plan, tmp_path / "variant", "webdataset")
    shard = tmp_path / "variant" / "shard-00001.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1  # of an image
    shard.write_bytes(content)
    with pytest.raises(ck.IntegrityError, match=r"shard-00001\.tar: SHA-256"):
        train_run(small_run(), tmp_path / "variant", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_overlay_over_another_source_is_refused(source: Path, tmp_path: Path) -> None:
    variant = variant_of(source, tmp_path / "flip.overlay")
    write_shards(source, [Row(f"{i:05d}", (i + 1) % 4, f"picture {i}", picture(i)) for i in range(32)], members=("png", "txt", "cls"))
    with pytest.raises(ck.CorruptkitError, match="fingerprint"):
        train_run(small_run(), variant, tmp_path / "run")


def test_a_variant_whose_edits_are_not_told_is_refused(source: Path, tmp_path: Path) -> None:
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.25")]), dataset.index())
    for layout in ("overlay", "parquet"):
        ck.write_variant(dataset, plan, tmp_path / layout, layout)
        with pytest.raises(ck.CatalogError, match="whose edits are of captions, and a run that is told labels; state condition"):
            train_run(small_run(), tmp_path / layout, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_run(small_run(), source, tmp_path / "run", images=64)
    good = saved(tmp_path / "run", 64)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "set_rate", lambda optimiser, *_: optimiser.param_groups[0].update(lr=1e30))
        with pytest.raises(ck.IntegrityError, match=r"the (loss|gradient_norm) is (nan|inf) within the \d+ images seen, expected a number"):
            train_run(small_run(), source, tmp_path / "run")
    assert [found.images for found in find_checkpoints(tmp_path / "run")] == [64]
    assert saved(tmp_path / "run", 64) == good
    train_run(small_run(), source, tmp_path / "run")


def test_too_little_memory_names_the_knob(source: Path, tmp_path: Path) -> None:
    """The allocator's own failure, under a limit of address space."""
    config = small_run(model={"width": 1024, "heads": 4, "patch": 1}, optimiser={"batch": 4096}, images=4096)
    file = write_run(config, tmp_path / "run.json")
    code = (
        f"import sys, resource; resource.setrlimit(resource.RLIMIT_AS, ({6 << 30}, {6 << 30}))\n"
        "from corruptkit_train.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    line = [sys.executable, "-c", code, "run", str(file), "--data", str(source), "--out", str(tmp_path / "run")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2, done.stderr
    assert (
        "machine.micro_batch: out of memory with 4096 images in a forward pass; lower machine.micro_batch (a divisor of 4096)"
        in done.stderr
    )


def test_a_batch_that_does_not_divide_is_refused(source: Path, tmp_path: Path) -> None:
    file = write_run(small_run(optimiser={"batch": 15}, images=150), tmp_path / "run.json")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "corruptkit_train"]
    words = ["run", str(file), "--data", str(source), "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*line, *words], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert "error: optimiser.batch: a batch of 15 on 2 processes, expected a multiple of 2" in done.stderr


def test_grids_checkpoints_and_trackers_come_when_they_should(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_run(small_run(machine={"sample": 48, "save": 32, "keep_every": 64, "trackers": ["tensorboard"]}), source, out)
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"{seen:012d}.png" for seen in (48, 96, 128)]
    assert [found.images for found in find_checkpoints(out)] == [64, 96, 128]
    assert list((out / "corruptkit").glob("events.*"))


def test_a_run_opens_with_diffusers(source: Path, tmp_path: Path) -> None:
    """In an environment that has no corruptkit, by the code that lies in the folder."""
    train_run(small_run(), source, tmp_path / "run")
    code = (
        "import sys; sys.modules['corruptkit'] = sys.modules['corruptkit_train'] = None\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(tmp_path / 'run' / 'pipeline')!r}, trust_remote_code=True)\n"
        "print(pipe(class_labels=[0, 3], num_inference_steps=2, guidance_scale=2.0).images[1].size)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.strip() == "(8, 8)", done.stderr


def test_every_format_of_a_variant_trains_the_same_model(source: Path, tmp_path: Path) -> None:
    """One variant as tars, Parquet, Arrow and an overlay: the same rows, so the same weights to the bit."""
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.25")]), dataset.index())
    found = []
    for layout in ("webdataset", "parquet", "arrow", "overlay"):
        ck.write_variant(dataset, plan, tmp_path / layout, layout)
        for hold in (1 << 30, 0):  # decoded once, and row by row
            out = tmp_path / f"run-{layout}-{hold}"
            train_run(small_run(images=64, machine={"hold": hold}), tmp_path / layout, out)
            found.append(saved(out, 64))
    assert all(parts == found[0] for parts in found)
