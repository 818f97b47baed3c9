"""What a network is told about each image, in a fixed order: corruption -> dropout -> embed -> perturbation -> network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, where


@dataclass(frozen=True)
class Condition:
    """The conditions of B images: class ids, or states of a text encoder; never both."""

    ids: Tensor | None = None  # (B,) int64; the null id where dropped
    states: Tensor | None = None  # (B, D) pooled or (B, T, D) tokens; the empty caption's where dropped
    mask: Tensor | None = None  # (B, T) bool, True where a token is; None for pooled states and classes

    def __len__(self) -> int:
        for part in (self.ids, self.states):
            if part is not None:
                return len(part)
        return 0

    def dropped(self, where_dropped: Tensor, null: Condition) -> Condition:
        """This condition with `null` (a condition of one row) where the (B,) bool mask says so."""
        if self.ids is not None and null.ids is not None:
            return replace(self, ids=where(where_dropped, null.ids, self.ids))
        if self.states is None or null.states is None:
            raise ValueError("found a class condition beside a text condition, expected two of one kind")
        states = where(where_dropped.view(-1, *[1] * (self.states.ndim - 1)), null.states, self.states)
        mask = None if self.mask is None or null.mask is None else where(where_dropped.unsqueeze(1), null.mask, self.mask)
        return replace(self, states=states, mask=mask)
