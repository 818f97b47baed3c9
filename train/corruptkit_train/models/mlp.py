"""A residual MLP on flattened samples, each of whose blocks is scaled and shifted by time and condition (FiLM: Perez et al., 2018).

It is small enough that dozens train at once (ensemble.py). It predicts what the objective asks for as it is: in terms of the noise,
velocity is the preconditioned output eps = sigma x + alpha v, which an MLP that is to predict noise would need where alpha is near 0.

This file needs torch and diffusers alone: a saved pipeline carries a copy of it and opens where corruptkit_train is not installed.
"""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

_FREQUENCIES = 256  # sines and cosines of a timestep, half of each


class FilmBlock(nn.Module):
    """h + W2 silu(W1 (norm(h) (1 + scale) + shift)), with scale and shift from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The norm has no weights of its own: the modulation gives them.
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        # (B, H) -> two of (B, H).
        scale, shift = self.modulation(condition).chunk(2, dim=1)
        inner = functional.silu(self.first(self.norm(hidden) * (1 + scale) + shift))
        added: Tensor = hidden + self.second(inner)
        return added


class MLP(ModelMixin, ConfigMixin):  # type: ignore[misc]  # Any to a checker that skips diffusers
    """A class- or text-conditional MLP; `classes` makes a table of K + 1 rows, `text_width` takes pooled states as they are."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(  # noqa: PLR0913 - diffusers saves exactly these as the model's config
        self,
        *,
        sample_size: int,
        in_channels: int,
        depth: int = 3,
        hidden_width: int = 192,
        condition_width: int = 64,
        classes: int | None = None,
        text_width: int | None = None,
        table_std: float = 0.02,
        learned_variance: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = in_channels * (2 if learned_variance else 1)
        pixels = sample_size * sample_size
        self.enter = nn.Linear(in_channels * pixels, hidden_width)
        self.frequencies = Timesteps(_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=1)
        self.time_mlp = TimestepEmbedding(_FREQUENCIES, hidden_width)
        self.class_table = None if classes is None else nn.Embedding(classes + 1, condition_width)  # row K is the null condition
        self.told = nn.Linear(text_width or condition_width, hidden_width)
        self.blocks = nn.ModuleList(FilmBlock(hidden_width) for _ in range(depth))
        self.norm_out = nn.LayerNorm(hidden_width)
        self.out = nn.Linear(hidden_width, self.out_channels * pixels)
        self._draw_weights(table_std)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return self.config.in_channels, self.config.sample_size, self.config.sample_size

    @property
    def classes(self) -> int | None:
        return None if self.class_table is None else self.class_table.num_embeddings - 1

    @property
    def width(self) -> int:
        return int(self.config.text_width or self.config.condition_width)

    def embed(self, condition: Any) -> Tensor:
        """(B, d) rows of the class table, or the pooled states as they are; `condition` is a `conditions.Condition`."""
        if self.class_table is not None:
            rows: Tensor = self.class_table(condition.ids)
            return rows
        states: Tensor = condition.states
        return states

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - one signature
        """(B, C or 2C, H, W) from a (B, C, H, W) sample, (B,) timesteps and (B, d) states of `embed`."""
        # Sines need float32 (a timestep of 999 has no neighbours in bfloat16); the MLP takes them in the samples' type.
        time = self.time_mlp(self.frequencies(timestep).to(sample.dtype))
        condition = functional.silu(time + self.told(states))  # (B, D)
        hidden = self.enter(sample.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        output: Tensor = self.out(functional.silu(self.norm_out(hidden)))
        return output.view(len(sample), self.out_channels, *sample.shape[2:])

    def _draw_weights(self, table_std: float) -> None:
        """Initial weights: Glorot's uniform for matrices, normal for the table, zero for modulations, ends of blocks and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith(("modulation.weight", "second.weight")) or name == "out.weight":
                nn.init.zeros_(weight)
        if self.class_table is not None:
            nn.init.normal_(self.class_table.weight, std=table_std)
