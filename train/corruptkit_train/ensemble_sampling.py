"""Samples of all members of an ensemble from common starts, in one batched pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

import corruptkit as ck
from corruptkit_train.conditions import Condition
from corruptkit_train.sampling import SamplerConfig, Trained, sample_latents
from corruptkit_train.stacks import Stack, refuse_unbatched


def sample_ensemble(
    members: Sequence[Trained], sampler: SamplerConfig, condition: Condition, numbers: Tensor, *, seed: int, scales: Sequence[float]
) -> Tensor:
    """(M, S, B, C, H, W) float32: what `sample_latents` makes for each member, from common starts, in one batched pass of all.

    The members are trained alike, as `open_model` and `place_model` give them. Raises CatalogError where their networks differ.
    """
    first = members[0]
    for place, member in enumerate(members):
        if (member.objective, str(member.device), member.kind) != (first.objective, str(first.device), first.kind):
            raise ck.CatalogError(
                ck.Problem(f"member {place}", "another objective, device or precision", "those of member 0", "sample it alone")
            )
    beside = _Beside([member.denoiser for member in members], first.null)  # type: ignore[misc]  # they are modules
    joined = replace(first, denoiser=beside, copies=len(members))
    made = sample_latents(joined, sampler, condition, numbers, seed=seed, scales=scales)
    count, many = made.shape[:2]
    return made.reshape(count, many, len(members), *beside.sample_shape).movedim(2, 0)


class _Beside:
    """The networks of an ensemble as one denoiser, whose samples lie side by side in the channels: (B, M * C, H, W)."""

    def __init__(self, denoisers: Sequence[nn.Module], null: Condition) -> None:
        one: Any = denoisers[0]
        self._stack = Stack(denoisers)
        self._stack.denoiser.requires_grad_(requires_grad=False)
        with torch.enable_grad():
            refuse_unbatched(self._stack, null, one.sample_shape)
        self.sample_shape: tuple[int, int, int] = one.sample_shape
        self.classes: int | None = one.classes
        self.width: int = one.width

    def embed(self, condition: Condition) -> Tensor:
        """(B, M, d) or (B, M, T, d): the members' states of one condition."""
        stack = self._stack
        found: Tensor = vmap(lambda own: stack.call(own, "embed", condition))(stack.weights)
        return found.transpose(0, 1)

    def __call__(self, sample: Tensor, timestep: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, M * C, H, W), without a variance that the members may have learnt."""
        channels = self.sample_shape[0]
        apart = sample.reshape(len(sample), -1, *self.sample_shape).transpose(0, 1)  # (M, B, C, H, W)
        # No weight here has a gradient. Where gradients are off, networks take kernels that torch cannot batch over weights.
        with torch.enable_grad():
            made = self._stack.run("__call__", apart, timestep, states.transpose(0, 1), mask, shared=(1, 3))
        return made[:, :, :channels].transpose(0, 1).flatten(1, 2)
