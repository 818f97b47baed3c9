"""The traps of docs/training.md that have no test elsewhere."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

from corruptkit_train.averages import Average
from corruptkit_train.conditions import Condition
from corruptkit_train.config import load_config, presets
from corruptkit_train.models import DiTConfig, UNetConfig, build_model
from corruptkit_train.perturbation import Cep, perturb
from corruptkit_train.run import limit_threads, train_run
from tests.train.small import small_run, write_pictures


def test_the_first_table_decides_what_gamma_is_worth() -> None:
    """|delta| is about gamma / sqrt(3) whatever the width is; |c| is sqrt(d) in a table of N(0, 1), and small in a DiT's."""
    ids = torch.arange(8)
    unet = UNetConfig(channels=(8,), attention=(True,), norm_groups=4, heads=2, condition_width=64)
    dit = DiTConfig(depth=1, width=64, heads=2, patch=4)
    norms = {}
    for config in (unet, dit):
        network = build_model(config, shape=(3, 8, 8), classes=8, seed=0)
        states = network.embed(Condition(ids=ids))
        _, said = perturb([Cep()], states, images=ids, rows=ids, dropped=ids < 0, seed=0)
        norms[config.kind] = said
    assert float(norms["unet"]["embedding_norm"]) == pytest.approx(8, rel=0.1)
    assert float(norms["dit"]["embedding_norm"]) == pytest.approx(0.02 * 8, rel=0.1)
    for said in norms.values():
        assert float(said["delta_norm"]) == pytest.approx(1 / math.sqrt(3), rel=0.1)


def test_the_log_says_how_large_embeddings_and_noise_are(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "src")
    train_run(small_run(images=32, perturbation=[{"kind": "cep"}]), source, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["delta_ratio"] == pytest.approx(line["delta_norm"] / line["embedding_norm"], rel=0.05)
    assert line["delta_norm"] > 0


@pytest.mark.parametrize("name", [name for name in presets() if not name.startswith("paper-")])  # large images, many steps
def test_runs_that_ship_avoid_what_fails_on_small_images(name: str) -> None:
    """No noise prediction where there is almost nothing but noise, and no average that is half of the first weights."""
    config = load_config(name)
    steps = config.images // config.optimiser.batch
    assert config.objective.kind != "eps"
    assert config.average.warmup
    assert config.average.decay**steps < 0.1


def test_the_average_holds_the_class_table_too() -> None:
    network = build_model(DiTConfig(depth=1, width=16, heads=2, patch=4), shape=(3, 8, 8), classes=3, seed=0)
    assert Average(network, 0.9).weights.keys() == dict(network.named_parameters()).keys()
    assert "class_table.weight" in Average(network, 0.9).weights


def test_a_checkpoint_at_every_multiple_can_stay(tmp_path: Path) -> None:
    """What sets in late, such as images that are learnt by heart, is looked for in the checkpoints of one run."""
    source = write_pictures(tmp_path / "src")
    train_run(small_run(machine={"save": 16, "keep": 1, "keep_every": 32}), source, tmp_path / "run")
    assert sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()) == [32, 64, 96, 128]


def test_threads_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    before, asked = torch.get_num_threads(), []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    limit_threads()
    assert asked == [], "who states a number is believed"
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads()
    assert asked == [len(os.sched_getaffinity(0))]
    assert torch.get_num_threads() == before
