"""What tests of networks share: numbers by key, and weights without a zero."""

from __future__ import annotations

from typing import Any

import torch
from corruptkit_train.draws import draw_normal


def draw_some(shape: tuple[int, ...], start: int = 0) -> torch.Tensor:
    return draw_normal(1, "noise", torch.arange(start, start + shape[0]), shape[1:])


def wake_weights(network: Any) -> Any:
    """The network with no zero left in it: a fresh one is the identity, which would hide most mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for weight in network.parameters():
            # Vectors and what was zero get numbers of their own; the others keep their scale.
            if weight.ndim == 1 or not weight.any():
                torch.nn.init.normal_(weight, std=0.2)
    return network.eval()
