"""From our DiT to diffusers' `DiTTransformer2DModel` and back, without loss.

The two compute the same, but there every block owns a copy of the timestep MLP and of the class table. (In training mode each copy also
drops labels by a draw of its own, which is why that class is only written and read here, never trained.)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

import corruptkit as ck
from corruptkit_train.models.dit import DiT

# Our name -> theirs; weight and bias go together.
_OUTER = {"patches": "pos_embed.proj", "modulation_out": "proj_out_1", "out": "proj_out_2"}
_INNER = {"attention.out": "attn1.to_out.0", "mlp.0": "ff.net.0.proj", "mlp.2": "ff.net.2", "modulation": "norm1.linear"}
_EMBEDDERS = {
    "time_mlp.linear_1.weight": "timestep_embedder.linear_1.weight",
    "time_mlp.linear_1.bias": "timestep_embedder.linear_1.bias",
    "time_mlp.linear_2.weight": "timestep_embedder.linear_2.weight",
    "time_mlp.linear_2.bias": "timestep_embedder.linear_2.bias",
    "class_table.weight": "class_embedder.embedding_table.weight",
}
# What their config must say for the two to compute the same.
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
    "upcast_attention": False,
}


def to_stock(network: DiT) -> DiTTransformer2DModel:
    """diffusers' class with the same outputs, in evaluation mode; refused for text and for frequencies that it does not know."""
    config = network.config
    if config.classes is None or config.frequency_shift != 1:
        found = "a model of text" if config.classes is None else "frequency_shift 0"
        raise ck.CatalogError(ck.Problem("model", found, "a class model with frequency_shift 1", "keep the pipeline that it is saved as"))
    with torch.device("meta"):  # no weight is drawn that would be overwritten
        stock = DiTTransformer2DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.hidden_width // config.heads,
            in_channels=config.in_channels,
            out_channels=network.out_channels,
            num_layers=config.depth,
            sample_size=config.sample_size,
            patch_size=config.patch,
            num_embeds_ada_norm=config.classes,
            norm_eps=config.norm_eps,
        )
    # The fixed position embedding is no weight; what it was on "meta" has no numbers.
    stock.pos_embed.pos_embed = network.get_buffer("places").clone()
    stock.load_state_dict(_stock_weights(network.state_dict(), config.depth), strict=True, assign=True)
    return stock.eval()


def from_stock(stock: DiTTransformer2DModel, file: str = "transformer") -> DiT:
    """Our class with the same outputs, if every block's embedders are equal; `file` names the source in an error."""
    config = stock.config
    for name, expected in _FIXED.items():
        if config[name] != expected:
            raise ck.IntegrityError(ck.Problem(file, f"{name} {config[name]!r}", repr(expected), "it is no DiT: do not use it as one"))
    learned = stock.out_channels == 2 * config.in_channels
    if not learned and stock.out_channels != config.in_channels:
        expected = f"{config.in_channels} or twice as many"
        raise ck.IntegrityError(ck.Problem(file, f"{stock.out_channels} output channels", expected, "it is no DiT: do not use it as one"))
    weights = stock.state_dict()
    _check_copies(weights, config.num_layers, file)
    with torch.device("meta"):
        network: DiT = DiT(
            sample_size=config.sample_size,
            in_channels=config.in_channels,
            patch=config.patch_size,
            depth=config.num_layers,
            hidden_width=config.num_attention_heads * config.attention_head_dim,
            heads=config.num_attention_heads,
            classes=config.num_embeds_ada_norm,
            learned_variance=learned,
            norm_eps=config.norm_eps,
        )
    network.register_buffer("places", stock.pos_embed.pos_embed.clone(), persistent=False)
    network.load_state_dict(_our_weights(weights, config.num_layers), strict=True, assign=True)
    network.train(stock.training)
    return network


def _pair_names(depth: int) -> Iterator[tuple[str, str]]:
    """Our name and theirs of every weight that both have once."""
    for ours, theirs in _OUTER.items():
        for part in ("weight", "bias"):
            yield f"{ours}.{part}", f"{theirs}.{part}"
    for block in range(depth):
        for ours, theirs in _INNER.items():
            for part in ("weight", "bias"):
                yield f"blocks.{block}.{ours}.{part}", f"transformer_blocks.{block}.{theirs}.{part}"


def _attention_names(depth: int) -> Iterator[tuple[str, list[str]]]:
    """Our joint matrix, and their three: queries, keys, values."""
    for block in range(depth):
        for part in ("weight", "bias"):
            parts = [f"transformer_blocks.{block}.attn1.to_{letter}.{part}" for letter in "qkv"]
            yield f"blocks.{block}.attention.qkv.{part}", parts


def _stock_weights(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Clones throughout: the export shares no memory with the network, and no copy with another."""
    stock = {theirs: weights[ours].clone() for ours, theirs in _pair_names(depth)}
    for ours, parts in _attention_names(depth):
        stock |= {name: part.clone() for name, part in zip(parts, weights[ours].chunk(3), strict=True)}
    for block in range(depth):
        prefix = f"transformer_blocks.{block}.norm1.emb."
        stock |= {prefix + theirs: weights[ours].clone() for ours, theirs in _EMBEDDERS.items()}
    return stock


def _our_weights(weights: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    ours = {ours: weights[theirs].clone() for ours, theirs in _pair_names(depth)}
    ours |= {name: torch.cat([weights[part] for part in parts]) for name, parts in _attention_names(depth)}
    return ours | {name: weights[f"transformer_blocks.0.norm1.emb.{theirs}"].clone() for name, theirs in _EMBEDDERS.items()}


def _check_copies(weights: dict[str, Tensor], depth: int, file: str) -> None:
    """All blocks of a DiT share one timestep MLP and one class table; copies that differ were trained as something else."""
    for block in range(1, depth):
        for theirs in _EMBEDDERS.values():
            name = f"norm1.emb.{theirs}"
            if not torch.equal(weights[f"transformer_blocks.{block}.{name}"], weights[f"transformer_blocks.0.{name}"]):
                found = f"{name} of block {block} differs from block 0's"
                raise ck.IntegrityError(ck.Problem(file, found, "equal copies in all blocks", "it is no DiT: do not use it as one"))
