"""What training and sampling ask of a network, whichever it is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from corruptkit_train.conditions import Condition


class Denoiser(Protocol):
    """A network that predicts noise, velocity or flow from a noisy sample, a timestep and a condition's states."""

    @property
    def sample_shape(self) -> tuple[int, int, int]: ...  # (C, H, W) of one sample

    @property
    def classes(self) -> int | None: ...  # K, so that K is also the null id; None for text

    @property
    def width(self) -> int: ...  # the last dimension of the states

    def embed(self, condition: Condition) -> Tensor:
        """The states of a condition: rows of the class table, (B, d) or (B, 1, d), or a text's own states as they are."""
        ...

    def __call__(self, sample: Tensor, timestep: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W), or (B, 2C, H, W) with learned variance, from (B, C, H, W), (B,), and (B, d) or (B, T, d) with a (B, T) mask."""
        ...
