"""What tests of networks share: numbers by key, weights without a zero, and a small network of every kind."""

from __future__ import annotations

from typing import Any

import torch

from corruptkit_train.draws import draw_normal
from corruptkit_train.models import DiTConfig, PixelUNetConfig, UNetConfig, build_model


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
SHAPE = (3, 8, 8)
WIDTH = 32  # of the small encoders of conftest.py
KINDS: dict[str, tuple[Any, int | None, int | None, bool]] = {
    "dit-class": (DIT, 4, None, False),
    "dit-text": (DIT, None, WIDTH, False),
    "unet-class": (UNET, 4, None, False),
    "unet-tokens": (UNET, None, WIDTH, True),
    "unet-pooled": (UNET, None, WIDTH, False),
    "pixel-class": (PIXEL, 4, None, False),
}


def build_kind(kind: str, **changes: Any) -> Any:
    """An awake network of a kind; `changes` alter its configuration."""
    config, classes, text_width, tokens = KINDS[kind]
    config = type(config).model_validate(config.model_dump() | changes)
    return wake_weights(build_model(config, shape=SHAPE, classes=classes, text_width=text_width, tokens=tokens, seed=0))
