"""The class table of a UNet, as a component of its own so that it is saved and opened like any other.

This file needs torch and diffusers alone: a saved pipeline carries a copy of it and opens where corruptkit_train is not installed.
"""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class ClassEmbedder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # Any to a checker that skips diffusers
    """A table of K + 1 rows, the last for the null condition; `as_token` gives (B, 1, d) for cross-attention, else (B, d)."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, *, classes: int, width: int, as_token: bool, std: float = 1.0) -> None:  # noqa: ARG002 - kept in the config
        super().__init__()
        self.table = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(ids)
        return rows.unsqueeze(1) if self.config.as_token else rows
