"""What tests of networks share: numbers by key, weights without a zero, and a small network of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from corruptkit_train.draws import draw_normal
from corruptkit_train.models import DiTConfig, MLPConfig, PixelUNetConfig, UNetConfig, build_model


def draw_some(shape: tuple[int, ...], start: int = 0) -> torch.Tensor:
    return draw_normal(1, "noise", torch.arange(start, start + shape[0]), shape[1:])


def wake_weights(network: Any) -> Any:
    """The network with no zero left in it: a fresh one is the identity, which would hide most mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for name, weight in network.named_parameters():
            # Vectors and what was zero get numbers of their own; the others keep their scale, save cross-attention, which is loud.
            if weight.ndim == 1 or not weight.any() or "attn2" in name:
                torch.nn.init.normal_(weight, std=1.0 if "attn2" in name else 0.2)
    return network.eval()


# Every way to tell a network something: name -> configuration, classes, width of text, tokens.
DIT = DiTConfig(depth=2, width=32, heads=4, patch=2)
UNET = UNetConfig(channels=[16, 32], attention=[False, True], layers=1, norm_groups=8, heads=2, condition_width=24)
PIXEL = PixelUNetConfig(channels=[16, 32], attention=[False, True], layers=1, norm_groups=8, head_width=16)
MLP = MLPConfig(depth=2, width=32, condition_width=24, table_std=1.0)
SHAPE = (3, 8, 8)
WIDTH = 32  # of the small encoders of conftest.py
KINDS: dict[str, tuple[Any, int | None, int | None, bool]] = {
    "dit-class": (DIT, 4, None, False),
    "dit-text": (DIT, None, WIDTH, False),
    "unet-class": (UNET, 4, None, False),
    "unet-tokens": (UNET, None, WIDTH, True),
    "unet-pooled": (UNET, None, WIDTH, False),
    "pixel-class": (PIXEL, 4, None, False),
    "mlp-class": (MLP, 4, None, False),
    "mlp-text": (MLP, None, WIDTH, False),
}


def build_kind(kind: str, **changes: Any) -> Any:
    """An awake network of a kind; `changes` alter its configuration."""
    config, classes, text_width, tokens = KINDS[kind]
    config = type(config).model_validate(config.model_dump() | changes)
    return wake_weights(build_model(config, shape=SHAPE, classes=classes, text_width=text_width, tokens=tokens, seed=0))


def save_autoencoder(folder: Path, kind: str = "AutoencoderKL", seed: int = 0, **changes: Any) -> Path:
    """A tiny autoencoder with random weights, shaped as its public kin (sd-vae f8, vq-f4, a tiny f4), as diffusers saves it."""
    import diffusers

    sizes = {"layers_per_block": 1, "norm_num_groups": 4}
    stages: dict[str, dict[str, Any]] = {
        "AutoencoderKL": {**_blocks(8, 8, 16, 16), **sizes, "sample_size": 256},
        "VQModel": {**_blocks(8, 8, 16), **sizes, "latent_channels": 3, "num_vq_embeddings": 32},
        "AutoencoderTiny": {
            **{f"{side}_block_out_channels": (8, 8, 8) for side in ("encoder", "decoder")},
            **{f"num_{side}_blocks": (1, 1, 1) for side in ("encoder", "decoder")},
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(diffusers, kind)(**stages[kind] | changes).save_pretrained(folder)
    return folder


def _blocks(*channels: int) -> dict[str, Any]:
    names = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    return {"block_out_channels": channels, **{field: name * len(channels) for field, name in names.items()}}
