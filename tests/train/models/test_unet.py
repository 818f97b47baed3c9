from __future__ import annotations

import pytest
import torch

from corruptkit_train.conditions import Condition
from corruptkit_train.models import PixelUNetConfig, UNetConfig, build_model
from corruptkit_train.models.class_embedder import ClassEmbedder
from corruptkit_train.models.unet import UNet
from tests.train.networks import draw_some, wake_weights

torch.set_num_threads(1)
TINY = UNetConfig(channels=[16, 32], attention=[False, True], layers=1, norm_groups=8, heads=2, condition_width=24)
PIXEL = PixelUNetConfig(channels=[16, 32], attention=[False, True], layers=1, norm_groups=8, head_width=16)
SHAPE = (3, 8, 8)


def test_ldm_4_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        network = build_model(UNetConfig(preset="LDM-4"), shape=(3, 64, 64), classes=1000, seed=0)
    assert isinstance(network, UNet)
    # "400M" in the paper; counted from diffusers' layers: 400.92 million and a table of 1001 x 512.
    assert sum(weight.numel() for weight in network.unet.parameters()) == 400_920_579
    assert network.class_embedder is not None
    assert network.class_embedder.table.weight.shape == (1001, 512)
    assert [block.attentions[0].num_attention_heads for block in network.unet.down_blocks[1:]] == [1, 1, 1]
    assert network.unet.down_blocks[0].__class__.__name__ == "DownBlock2D"


@pytest.mark.parametrize("name", [*UNetConfig.presets, *PixelUNetConfig.presets])
def test_every_preset_builds(name: str) -> None:
    config = UNetConfig if name in UNetConfig.presets else PixelUNetConfig
    side = int(name.rpartition("-")[2]) if "UNet" in name else 64
    with torch.device("meta"):
        network = build_model(config(preset=name), shape=(3, side, side), classes=10, seed=0)
        states = network.embed(Condition(ids=torch.zeros(2, dtype=torch.int64)))
        output = network(torch.zeros(2, 3, side, side), torch.zeros(2), states)
    assert output.shape == (2, 3, side, side)
    assert network.sample_shape == (3, side, side)
    assert network.classes == 10
    assert states.shape[-1] == network.width


@pytest.mark.parametrize("config", [TINY, PIXEL])
@pytest.mark.parametrize("learned", [False, True])
def test_a_perturbed_class_passes_and_changes_the_output(config: UNetConfig | PixelUNetConfig, learned: bool) -> None:
    network = wake_weights(build_model(config.model_copy(update={"learned_variance": learned}), shape=SHAPE, classes=4, seed=0))
    sample, steps = draw_some((2, *SHAPE)), torch.tensor([3, 700])
    states = network.embed(Condition(ids=torch.tensor([1, 4])))
    output = network(sample, steps, states)
    assert output.shape == (2, 6 if learned else 3, 8, 8)
    assert states.shape == ((2, 1, 24) if config is TINY else (2, 64))
    # Adding the difference of two rows makes one class into the other: the network knows the vector alone.
    assert network.class_embedder is not None
    table = network.class_embedder.table.weight
    moved = network(sample, steps, states + (table[2] - table[1]))
    assert torch.allclose(moved[:1], network(sample[:1], steps[:1], network.embed(Condition(ids=torch.tensor([2])))), atol=1e-5)
    assert (moved - output).abs().max() > 1e-3


def test_padding_is_masked_unless_told_otherwise() -> None:
    masked = wake_weights(build_model(TINY, shape=SHAPE, text_width=12, tokens=True, seed=0))
    sample, steps, states = draw_some((2, *SHAPE)), torch.tensor([3, 700]), draw_some((2, 5, 12))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    other = torch.where(mask.unsqueeze(2), states, draw_some((2, 5, 12), start=7))  # other numbers where no token is
    assert torch.equal(masked(sample, steps, states, mask), masked(sample, steps, other, mask))
    assert not torch.equal(masked(sample, steps, states), masked(sample, steps, other))
    seeing = wake_weights(build_model(TINY.model_copy(update={"mask_padding": False}), shape=SHAPE, text_width=12, tokens=True, seed=0))
    assert torch.equal(seeing(sample, steps, states, mask), masked(sample, steps, states))


def test_a_pooled_text_is_one_token() -> None:
    network = wake_weights(build_model(TINY, shape=SHAPE, text_width=12, seed=0))
    sample, steps, states = draw_some((2, *SHAPE)), torch.tensor([3, 700]), draw_some((2, 12))
    assert torch.equal(network(sample, steps, states), network(sample, steps, states.unsqueeze(1)))
    assert network.embed(Condition(states=states)) is states


def test_first_weights_are_a_function_of_the_seed_alone() -> None:
    first, again = (build_model(TINY, shape=SHAPE, classes=4, seed=3).state_dict() for _ in range(2))
    other = build_model(TINY, shape=SHAPE, classes=4, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["unet.conv_in.weight"], other["unet.conv_in.weight"])
    assert not torch.equal(first["class_embedder.table.weight"], other["class_embedder.table.weight"])


def test_checkpointing_gives_the_same_gradients() -> None:
    network = wake_weights(build_model(TINY, shape=SHAPE, classes=4, seed=0)).train()
    gradients = []
    for stored in (False, True):
        network.zero_grad()
        if stored:
            network.enable_gradient_checkpointing()
        states = network.embed(Condition(ids=torch.tensor([1, 4])))
        network(draw_some((2, *SHAPE)), torch.tensor([3, 700]), states).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in network.parameters()])
    assert all(torch.allclose(left, right) for left, right in zip(*gradients, strict=True))


def test_the_tables_scale_is_the_configurations(tmp_path) -> None:  # noqa: ANN001
    network = build_model(TINY.model_copy(update={"table_std": 0.02}), shape=SHAPE, classes=500, seed=0)
    assert isinstance(network, UNet)
    assert network.class_embedder is not None
    assert network.class_embedder.table.weight.std().item() == pytest.approx(0.02, rel=0.05)
    network.class_embedder.save_pretrained(tmp_path)
    loaded = ClassEmbedder.from_pretrained(tmp_path)
    assert torch.equal(loaded(torch.tensor([500])), network.class_embedder(torch.tensor([500])))
