"""Two processes (gloo) under DDP and FSDP: the same run, from checkpoints that any number of processes goes on from."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import corruptkit as ck
from corruptkit_train.loop import Agreement, explain_parting
from corruptkit_train.run import train_run
from corruptkit_train.sharding import find_regions
from tests.train.small import small_run, write_pictures

PARTS = ("weights", "average", "optimiser")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
UNET = {"kind": "unet", "channels": (8, 16), "attention": (False, True), "layers": 1, "norm_groups": 4, "heads": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src")


def accelerate_launch() -> tuple[str, ...]:
    """`accelerate launch` of two processes; it would look for mpirun if it were told of CPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fixed = ("--num_machines", "1", "--mixed_precision", "bf16", "--dynamo_backend", "no")  # bf16: the run's own precision wins
    return "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *fixed, "--main_process_port", str(port)


def launch(launcher: Sequence[str], *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *launcher, "-m", "corruptkit_train", "run", *map(str, words)]
    known = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | environment
    return subprocess.run(line, env=known, capture_output=True, text=True, timeout=600, check=False)


def difference(one: Path, other: Path, images: int) -> dict[str, float]:
    """Relative distance of two runs' checkpoints, part by part; the names and shapes in them are the same."""
    found = {}
    for part in PARTS:
        here, there = (load_file(run / "checkpoints" / f"{images:012d}" / f"{part}.safetensors") for run in (one, other))
        assert {name: tensor.shape for name, tensor in here.items()} == {name: tensor.shape for name, tensor in there.items()}
        apart = sum(float((here[name] - there[name]).double().square().sum()) for name in here)
        found[part] = (apart / sum(float(tensor.double().square().sum()) for tensor in here.values())) ** 0.5
    return found


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_another_number_of_processes_goes_on(source: Path, tmp_path: Path, sharding: str) -> None:
    """1 -> 2 -> 1 processes, in two passes a step, are one process throughout, but for the order of sums."""
    config = small_run(images=960, machine={"sharding": sharding, "micro_batch": 4}, optimiser={"clip": 0.1})
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"config": config.model_dump(mode="json")}))
    train_run(config, source, tmp_path / "alone")
    train_run(config, source, tmp_path / "both", images=320)
    launcher = TORCHRUN if sharding == "ddp" else accelerate_launch()
    done = launch(launcher, file, "--data", source, "--out", tmp_path / "both", "--images", 640)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained  ") == 1
    train_run(config, source, tmp_path / "both")
    apart = difference(tmp_path / "alone", tmp_path / "both", 960)
    assert all(0 < value < 1e-4 for value in apart.values()), apart
    seen = [json.loads(line)["images"] for line in (tmp_path / "both" / "log.jsonl").read_text().splitlines()]
    assert seen == list(range(32, 961, 32))


def test_shards_are_shards(tmp_path: Path) -> None:
    """Of every weight, its average and its moments a process holds its part; a step is that of the whole network."""
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(Path(__file__).with_name("shards.py")), str(tmp_path / "found.json")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    for kind in ("dit", "unet"):
        held = found[kind]
        assert held["weights"] < 0.75 * held["whole"], held
        assert held["average"] == held["weights"], held
        assert held["moments"] == 2 * held["weights"], held
        assert held["apart"] < 1e-5, held
        assert held["norm_apart"] < 1e-5, held


def test_regions_are_the_parts_that_repeat() -> None:
    from corruptkit_train.models import UNetConfig, build_model

    unet = build_model(UNetConfig(**UNET), shape=(3, 8, 8), classes=4, seed=0)  # type: ignore[arg-type]
    assert len(find_regions(unet)) == 2 + 1 + 2
    dit = build_model(small_run().model, shape=(3, 8, 8), classes=4, seed=0)
    assert len(find_regions(dit)) == 2


def test_accelerates_own_sharding_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ck.CatalogError, match=r"ACCELERATE_USE_FSDP: .*; state machine\.sharding = 'fsdp'"):
        train_run(small_run(), source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_gone_is_named() -> None:
    """In the words of gloo, as the others of a killed process hear of it; any other mistake is raised as it is."""
    words = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:6865: Connection reset by peer."
    with pytest.raises(ck.IntegrityError, match=r"WORLD_SIZE: one of 2 processes is gone, expected all of them"), explain_parting(2):
        raise RuntimeError(words)
    with pytest.raises(ck.IntegrityError), explain_parting(2):
        raise torch.distributed.DistNetworkError("the client socket has timed out")
    for world, mistake in ((1, words), (2, "shapes do not fit")):
        with pytest.raises(RuntimeError, match=r"Read error|shapes"), explain_parting(world):
            raise RuntimeError(mistake)


def test_processes_leave_at_one_step() -> None:
    """What one is told, all know a step later; one alone need not ask."""
    accelerator = Accelerator(cpu=True)
    assert [Agreement(accelerator).reached(told=told) for told in (False, True)] == [False, True]

    class Two:
        num_processes, device = 2, torch.device("cpu")

        def reduce(self, value: torch.Tensor, how: str) -> torch.Tensor:
            assert how == "sum"
            return value

    both = Agreement(Two())  # type: ignore[arg-type]
    assert [both.reached(told=told) for told in (False, True, False, False)] == [False, False, True, False]
