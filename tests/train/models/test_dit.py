from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from corruptkit_train.conditions import Condition
from corruptkit_train.models import DiTConfig, build_model
from corruptkit_train.models.dit import DiT
from tests.train.networks import draw_some, wake_weights

torch.set_num_threads(1)
TINY = DiTConfig(depth=3, width=32, heads=4, patch=2)
SHAPE = (3, 8, 8)
# Peebles and Xie (2023), tables 1 and 4: millions of parameters, 256 x 256 pixels (32 x 32 x 4 latents), 1000 classes.
PUBLISHED = {"S/8": 33, "S/4": 33, "S/2": 33, "B/8": 131, "B/4": 130, "B/2": 130}
PUBLISHED |= {"L/8": 459, "L/4": 458, "L/2": 458, "XL/8": 676, "XL/4": 675, "XL/2": 675}


def count_weights(network: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def build_class(config: DiTConfig = TINY, seed: int = 0) -> DiT:
    network = build_model(config, shape=SHAPE, classes=10, seed=seed)
    assert isinstance(network, DiT)
    return network


def build_text(layers: int = 1) -> DiT:
    network = build_model(TINY.model_copy(update={"text_layers": layers}), shape=SHAPE, text_width=12, seed=0)
    assert isinstance(network, DiT)
    return network


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_numbers_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = build_model(DiTConfig(preset=f"DiT-{name}", learned_variance=True), shape=(4, 32, 32), classes=1000, seed=0)
    assert round(count_weights(network) / 1e6) == PUBLISHED[name]


def test_the_largest_has_exactly_the_parameters_of_the_architecture() -> None:
    width, depth, patch, channels = 1152, 28, 2, 4
    block = 18 * width**2 + 15 * width  # qkv 3 + 3, out 1 + 1, MLP 8 + 5, modulation 6 + 6
    embedders = channels * patch**2 * width + width  # patches
    embedders += 256 * width + width + width**2 + width  # timestep MLP
    embedders += 1001 * width  # classes and the null one
    end = 2 * width**2 + 2 * width + (width + 1) * patch**2 * 2 * channels  # modulation, output with variance
    with torch.device("meta"):
        network = build_model(DiTConfig(preset="DiT-XL/2", learned_variance=True), shape=(4, 32, 32), classes=1000, seed=0)
    assert depth * block + embedders + end == 674_834_720
    assert count_weights(network) == 674_834_720
    # The authors' own count, 675,129,632, has the fixed position embedding of 256 patches in it.
    assert count_weights(network) + network.get_buffer("places").numel() == 675_129_632


def test_a_fresh_network_is_the_identity_with_output_zero() -> None:
    network = build_class()
    tokens = draw_some((2, 16, 32))
    for block in network.blocks:
        assert torch.equal(block(tokens, draw_some((2, 32))), tokens)
    assert not network(draw_some((2, *SHAPE)), torch.tensor([1, 999]), draw_some((2, 32))).any()
    assert network.class_table is not None
    assert network.class_table.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_first_weights_are_a_function_of_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, torch_moved = build_class(seed=3).state_dict(), torch.randn(7)
    torch.random.set_rng_state(before)
    assert torch.equal(torch.randn(7), torch_moved)  # building drew nothing from the process's generator
    again, other = build_class(seed=3).state_dict(), build_class(seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["class_table.weight"], other["class_table.weight"])


@pytest.mark.parametrize("shift", [0, 1])
def test_the_timestep_turns_at_the_frequencies_of_its_convention(shift: int) -> None:
    network = build_class(TINY.model_copy(update={"frequency_shift": shift}))
    waves = network.frequencies(torch.tensor([500.0]))[0].double()
    angles = [500.0 * math.exp(-math.log(10_000) * k / (128 - shift)) for k in range(128)]
    expected = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    assert (waves - expected).abs().max() < 1e-4


def test_timesteps_may_be_whole_or_broken_numbers() -> None:
    network, sample, states = wake_weights(build_class()), draw_some((2, *SHAPE)), draw_some((2, 32))
    whole = network(sample, torch.tensor([0, 999]), states)
    assert torch.equal(whole, network(sample, torch.tensor([0.0, 999.0]), states))
    assert not torch.equal(whole, network(sample, torch.tensor([0.5, 999.5]), states))


@pytest.mark.parametrize("layers", [1, 2])
def test_text_is_perturbed_before_the_projection(layers: int) -> None:
    network = wake_weights(build_text(layers))
    states, delta = draw_some((2, 12)), draw_some((2, 12), start=9)
    assert network.width == 12
    assert network.classes is None
    assert network.embed(Condition(states=states)) is states
    assert network.text_projection is not None
    sample, steps = draw_some((2, *SHAPE)), torch.tensor([3, 700])
    projected = network.text_projection(states + delta)
    output = network(sample, steps, states + delta)
    network.text_projection = None
    assert torch.equal(output, network(sample, steps, projected))


@pytest.mark.parametrize("learned", [False, True])
def test_patches_go_back_where_they_came_from(learned: bool) -> None:
    network = wake_weights(build_class(TINY.model_copy(update={"learned_variance": learned})))
    sample = draw_some((1, *SHAPE))
    output = network(sample, torch.tensor([5]), draw_some((1, 32)))
    assert output.shape == (1, 6 if learned else 3, 8, 8)
    # Token n holds row n // 4 and column n % 4 of the patches, each (row, column, channel).
    tokens = draw_some((1, 16, network.out.out_features))
    joined = network._join_patches(tokens)
    patch = tokens[0, 4 * 2 + 1].view(2, 2, -1)
    assert torch.equal(joined[0, :, 4:6, 2:4], patch.permute(2, 0, 1))


def test_checkpointing_gives_the_same_output_and_gradients() -> None:
    network = wake_weights(build_class()).train()
    sample, steps, ids = draw_some((2, *SHAPE)), torch.tensor([3, 700]), Condition(ids=torch.tensor([1, 10]))
    gradients = []
    for stored in (False, True):
        network.zero_grad()
        if stored:
            network.enable_gradient_checkpointing()
        output = network(sample, steps, network.embed(ids))
        output.square().sum().backward()
        gradients.append([output, *(weight.grad.clone() for weight in network.parameters())])
    assert all(torch.equal(left, right) for left, right in zip(*gradients, strict=True))
    assert gradients[0][1].abs().sum() > 0


def test_a_saved_network_comes_back_whole(tmp_path: Path) -> None:
    network = wake_weights(build_class(TINY.model_copy(update={"learned_variance": True, "norm_eps": 1e-5})))
    network.save_pretrained(tmp_path)
    loaded = DiT.from_pretrained(tmp_path)
    inputs = draw_some((2, *SHAPE)), torch.tensor([3, 700]), draw_some((2, 32))
    assert torch.equal(network(*inputs), loaded(*inputs))
    assert (loaded.sample_shape, loaded.classes, loaded.width) == (SHAPE, 10, 32)
    assert loaded.blocks[0].norm2.eps == 1e-5


def test_half_precision_is_close() -> None:
    network = wake_weights(build_class())
    inputs = draw_some((2, *SHAPE)), torch.tensor([998, 999]), draw_some((2, 32))
    exact = network(*inputs)
    half = network.to(torch.bfloat16)(inputs[0].bfloat16(), inputs[1], inputs[2].bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 0.05
