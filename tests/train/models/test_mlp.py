"""The residual MLP: what is its own; the laws of every network are in test_models.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import corruptkit as ck
from corruptkit_train.conditions import Condition
from corruptkit_train.models import MLPConfig, build_model
from corruptkit_train.models.mlp import MLP
from corruptkit_train.run import train_run
from tests.train.networks import draw_some
from tests.train.small import small_run, write_pictures

torch.set_num_threads(1)


def test_a_fresh_network_says_zero_and_its_table_is_small() -> None:
    network = build_model(MLPConfig(), shape=(3, 4, 4), classes=100, seed=0)
    assert isinstance(network, MLP)
    assert (network.sample_shape, network.classes, network.width) == ((3, 4, 4), 100, 64)
    condition = Condition(ids=torch.tensor([0, 99, 100]))
    assert not network(draw_some((3, 3, 4, 4)), torch.tensor([0, 500, 999]), network.embed(condition)).any()
    assert float(network.class_table.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert 0.4e6 < sum(weight.numel() for weight in network.parameters()) < 0.6e6


def test_a_variance_doubles_the_channels() -> None:
    network = build_model(MLPConfig(width=16, depth=1, learned_variance=True), shape=(2, 4, 4), text_width=12, seed=0)
    states = draw_some((5, 12))
    assert torch.equal(network.embed(Condition(states=states)), states)
    assert network(draw_some((5, 2, 4, 4)), torch.arange(5), states).shape == (5, 4, 4, 4)


def test_tokens_are_refused() -> None:
    with pytest.raises(ck.CatalogError, match="kind 'mlp' with token states, expected pooled states"):
        build_model(MLPConfig(), shape=(3, 4, 4), text_width=12, tokens=True, seed=0)


def test_a_run_opens_with_diffusers(tmp_path: Path) -> None:
    """A trained MLP is exported like a DiT."""
    from diffusers import DiffusionPipeline

    table = small_run().model_dump(mode="json") | {"model": {"kind": "mlp", "width": 16, "depth": 1}, "objective": {"kind": "v"}}
    train_run(type(small_run()).model_validate(table), write_pictures(tmp_path / "src"), tmp_path / "run")
    opened = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline", trust_remote_code=True)
    assert type(opened.transformer).__name__ == "MLP"
    assert opened(class_labels=[0, 3], num_inference_steps=2, guidance_scale=2.0).images[1].size == (8, 8)
