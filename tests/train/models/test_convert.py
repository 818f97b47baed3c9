from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel

import corruptkit as ck
from corruptkit_train.models import DiTConfig, build_model
from corruptkit_train.models.convert import from_stock, to_stock
from corruptkit_train.models.dit import DiT
from tests.train.networks import draw_some, wake_weights

torch.set_num_threads(1)
CASES = [(True, 1e-6), (False, 1e-6), (True, 1e-5), (False, 1e-5)]


def build_some(*, learned: bool = True, norm_eps: float = 1e-6, shift: int = 1) -> DiT:
    config = DiTConfig(depth=4, width=96, heads=3, patch=2, learned_variance=learned, norm_eps=norm_eps, frequency_shift=shift)
    network = wake_weights(build_model(config, shape=(4, 16, 16), classes=10, seed=0))
    assert isinstance(network, DiT)
    return network


def run_both(network: DiT, stock: DiTTransformer2DModel) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([0, 3, 9, 10])  # the null id among them
    sample, steps = draw_some((4, 4, 16, 16)), torch.tensor([0, 250, 777, 999])
    assert network.class_table is not None
    with torch.no_grad():
        return network(sample, steps, network.class_table(ids)), stock(sample, timestep=steps, class_labels=ids).sample


@pytest.mark.parametrize(("learned", "norm_eps"), CASES)
def test_export_computes_the_same(learned: bool, norm_eps: float) -> None:
    network = build_some(learned=learned, norm_eps=norm_eps)
    ours, theirs = run_both(network, to_stock(network))
    assert ours.abs().mean() > 0.1
    assert ours.shape == (4, 8 if learned else 4, 16, 16)
    assert (ours - theirs).abs().max() <= 1e-5
    print("largest difference", (ours - theirs).abs().max().item(), "of", ours.abs().max().item())


@pytest.mark.parametrize(("learned", "norm_eps"), CASES)
def test_import_inverts_export(learned: bool, norm_eps: float) -> None:
    network = build_some(learned=learned, norm_eps=norm_eps)
    back = from_stock(to_stock(network))
    assert dict(back.config) | {"_use_default_values": []} == dict(network.config) | {"_use_default_values": []}
    assert back.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(left, right) for left, right in zip(back.state_dict().values(), network.state_dict().values(), strict=True))
    assert torch.equal(back.get_buffer("places"), network.get_buffer("places"))


@pytest.mark.parametrize("old", [False, True])
def test_import_computes_the_same_from_a_folder(tmp_path: Path, old: bool) -> None:
    to_stock(build_some()).save_pretrained(tmp_path)
    if old:
        # The configuration of weights that were published before the class had its name; it knows no epsilon other than 1e-5.
        config = json.loads((tmp_path / "config.json").read_text()) | {"_class_name": "Transformer2DModel", "num_vector_embeds": None}
        del config["norm_eps"]
        (tmp_path / "config.json").write_text(json.dumps(config | {"cross_attention_dim": None, "only_cross_attention": False}))
    stock = DiTTransformer2DModel.from_pretrained(tmp_path).eval()
    assert from_stock(stock).config.norm_eps == (1e-5 if old else 1e-6)
    ours, theirs = run_both(from_stock(stock), stock)
    assert (ours - theirs).abs().max() <= 1e-5


def test_a_network_of_diffusers_own_imports_once_its_copies_are_tied() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        stock = wake_weights(DiTTransformer2DModel(2, 16, 4, 8, num_layers=3, sample_size=8, num_embeds_ada_norm=10))
    with pytest.raises(ck.IntegrityError):
        from_stock(stock)
    for block in stock.transformer_blocks:
        block.norm1.emb.load_state_dict(stock.transformer_blocks[0].norm1.emb.state_dict())
    network = from_stock(stock)
    sample, steps, ids = draw_some((2, 4, 8, 8)), torch.tensor([5, 900]), torch.tensor([3, 10])
    assert network.class_table is not None
    difference = network(sample, steps, network.class_table(ids)) - stock(sample, timestep=steps, class_labels=ids).sample
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("part", ["timestep_embedder.linear_2.bias", "class_embedder.embedding_table.weight"])
def test_import_refuses_copies_that_differ_by_one_number(part: str) -> None:
    stock = to_stock(build_some())
    stock.get_parameter(f"transformer_blocks.2.norm1.emb.{part}").data.view(-1)[-1] += 1e-6
    with pytest.raises(ck.IntegrityError) as caught:
        from_stock(stock, "models/other")
    assert str(caught.value) == (
        f"models/other: norm1.emb.{part} of block 2 differs from block 0's, expected equal copies in all blocks; "
        "it is no DiT: do not use it as one"
    )


def test_import_refuses_another_architecture() -> None:
    stock = DiTTransformer2DModel(2, 16, 4, 8, num_layers=1, sample_size=8, num_embeds_ada_norm=10, activation_fn="gelu")
    with pytest.raises(ck.IntegrityError, match="activation_fn 'gelu', expected 'gelu-approximate'"):
        from_stock(stock)
    stock = DiTTransformer2DModel(2, 16, 4, 7, num_layers=1, sample_size=8, num_embeds_ada_norm=10)
    with pytest.raises(ck.IntegrityError, match="7 output channels, expected 4 or twice as many"):
        from_stock(stock)


def test_export_refuses_what_would_be_lost() -> None:
    with pytest.raises(ck.CatalogError, match="frequency_shift 0, expected a class model with frequency_shift 1"):
        to_stock(build_some(shift=0))
    text = build_model(DiTConfig(depth=1, width=32, heads=2, patch=2), shape=(3, 8, 8), text_width=12, seed=0)
    assert isinstance(text, DiT)
    with pytest.raises(ck.CatalogError, match="a model of text"):
        to_stock(text)


def test_export_shares_no_memory_with_the_network() -> None:
    network = build_some()
    before, stock = {name: weight.clone() for name, weight in network.state_dict().items()}, to_stock(network)
    for weight in stock.parameters():
        weight.data.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
