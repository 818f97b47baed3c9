"""An exponential moving average of weights, the weights that are sampled and evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from corruptkit_train.sharding import gather_tensors, local_parts, spread_tensor


class Average:
    """average <- d average + (1 - d) weights after each update, d = min(decay, (1 + n)/(10 + n)) for the n-th with warm-up.

    A constant decay of 0.9999 would still hold 74 % of the initial weights after 3,000 updates.
    """

    def __init__(self, module: nn.Module, decay: float, *, warmup: bool = True) -> None:
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.weights = {name: weight.detach().clone().float() for name, weight in module.named_parameters()}

    def next_decay(self) -> float:
        """What the next update keeps of the average."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        # Of a sharded network each process averages its shards: no process waits for another.
        average, current = local_parts(list(self.weights.values())), local_parts(list(module.parameters()))
        torch._foreach_lerp_(average, current, 1 - self.next_decay())
        self.updates += 1

    def state(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Whole weights by name, where they are kept; of a sharded network all processes must ask together."""
        return gather_tensors(self.weights, keep=keep)

    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Go on from stored weights, in place."""
        for name, weight in self.weights.items():
            weight.copy_(spread_tensor(weights[name], weight))
        self.updates = updates


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], names: Iterable[str], module: nn.Module) -> None:
    """Put weights by name into a module's parameters."""
    mine = dict(module.named_parameters())
    for name in names:
        mine[name].copy_(weights[name])
