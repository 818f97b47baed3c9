"""DiT, the diffusion transformer of Peebles and Xie (2023, arXiv:2212.09748), with one label table and one timestep MLP.

This file needs torch and diffusers alone: a saved pipeline carries a copy of it and opens where corruptkit_train is not installed.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_2d_sincos_pos_embed
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

_FREQUENCIES = 256  # sines and cosines of a timestep, half of each
_TABLE_STD = 0.02  # of the label table and the timestep MLP at the start
_OUTER_EPS = 1e-6  # of the norms whose epsilon diffusers' DiTTransformer2DModel does not let a config choose


class Attention(nn.Module):
    """Self-attention of (B, N, D) tokens, with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        # (B, N, 3D) -> three of (B, heads, N, D / heads); a head's channels lie together.
        query, key, value = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)  # softmax(q k / sqrt(D / heads)) v
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, count, width))
        return joined


class Mlp(nn.Sequential):
    """Two matrices with a GELU (its approximation by tanh) between them."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        # Sampling on a CPU: the first matrix and the GELU as one kernel of oneDNN, which has no gradient.
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
        if plain or tokens.device.type != "cpu" or tokens.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            result: Tensor = super().forward(tokens)  # type: ignore[no-untyped-call]
            return result
        joined = torch.ops.mkldnn._linear_pointwise(tokens, self[0].weight, self[0].bias, "gelu", [], "tanh")  # noqa: SLF001
        last: Tensor = self[2](joined)
        return last


class Block(nn.Module):
    """A transformer block whose norms are shifted and scaled, and whose branches are gated, by the condition (adaLN-zero, figure 3)."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        # The norms have no weights of their own: the modulation gives them.
        self.norm1 = nn.LayerNorm(width, eps=_OUTER_EPS, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps, elementwise_affine=False)
        self.mlp = Mlp(width)
        # Zero at the start, so that all gates are shut and the block is the identity.
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        # (B, D) -> six of (B, 1, D): shift, scale and gate of the attention, then of the MLP.
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition).unsqueeze(1).chunk(6, dim=2)
        tokens = tokens + gate1 * self.attention(self.norm1(tokens) * (1 + scale1) + shift1)
        gated: Tensor = gate2 * self.mlp(self.norm2(tokens) * (1 + scale2) + shift2)
        return tokens + gated


class DiT(ModelMixin, ConfigMixin):  # type: ignore[misc]  # Any to a checker that skips diffusers
    """A class- or text-conditional DiT; `classes` makes a table of K + 1 rows, `text_width` a projection of pooled states."""

    _supports_gradient_checkpointing = True

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(  # noqa: PLR0913 - diffusers saves exactly these as the model's config
        self,
        *,
        sample_size: int = 32,
        in_channels: int = 4,
        patch: int = 2,
        depth: int = 28,
        hidden_width: int = 1152,
        heads: int = 16,
        classes: int | None = None,
        text_width: int | None = None,
        text_layers: int = 1,
        learned_variance: bool = False,
        frequency_shift: int = 1,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.out_channels = in_channels * (2 if learned_variance else 1)
        self.gradient_checkpointing = False
        self.patches = nn.Conv2d(in_channels, hidden_width, kernel_size=patch, stride=patch)
        # Sines and cosines of a patch's row and column: computed anew when a model is loaded, (1, N, D).
        self.side = sample_size // patch
        places = get_2d_sincos_pos_embed(hidden_width, self.side, base_size=self.side, output_type="pt")
        self.register_buffer("places", places.float().unsqueeze(0), persistent=False)
        # Shift 1 spaces the frequencies as diffusers does (exponent k/127), shift 0 as the paper's authors do (k/128).
        self.frequencies = Timesteps(_FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=frequency_shift)
        self.time_mlp = TimestepEmbedding(_FREQUENCIES, hidden_width)
        self.class_table = None if classes is None else nn.Embedding(classes + 1, hidden_width)  # row K is the null condition
        self.text_projection = None if text_width is None else _project_text(text_width, hidden_width, text_layers)
        self.blocks = nn.ModuleList(Block(hidden_width, heads, norm_eps) for _ in range(depth))
        self.norm_out = nn.LayerNorm(hidden_width, eps=_OUTER_EPS, elementwise_affine=False)
        self.modulation_out = nn.Linear(hidden_width, 2 * hidden_width)
        self.out = nn.Linear(hidden_width, patch * patch * self.out_channels)
        self._draw_weights()

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return self.config.in_channels, self.config.sample_size, self.config.sample_size

    @property
    def classes(self) -> int | None:
        return None if self.class_table is None else self.class_table.num_embeddings - 1

    @property
    def width(self) -> int:
        return int(self.config.text_width or self.config.hidden_width)

    def embed(self, condition: Any) -> Tensor:
        """(B, D) rows of the class table, or the pooled states as they are; `condition` is a `conditions.Condition`."""
        if self.class_table is not None:
            rows: Tensor = self.class_table(condition.ids)
            return rows
        states: Tensor = condition.states
        return states

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - one signature
        """(B, C or 2C, H, W) from a (B, C, H, W) sample, (B,) timesteps and (B, d) states of `embed`."""
        # (B, C, H, W) -> (B, N, D), row by row.
        tokens = self.patches(sample).flatten(2).transpose(1, 2) + self.places
        tokens = tokens.to(sample.dtype)
        told = states if self.text_projection is None else self.text_projection(states)
        # Sines need float32 (a timestep of 999 has no neighbours in bfloat16); the MLP takes them in the samples' type.
        condition = functional.silu(self.time_mlp(self.frequencies(timestep).to(tokens.dtype)) + told)  # (B, D)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = self._gradient_checkpointing_func(block, tokens, condition)
            else:
                tokens = block(tokens, condition)
        shift, scale = self.modulation_out(condition).unsqueeze(1).chunk(2, dim=2)
        return self._join_patches(self.out(self.norm_out(tokens) * (1 + scale) + shift))

    def _join_patches(self, tokens: Tensor) -> Tensor:
        """(B, N, p * p * C) patches -> (B, C, H, W)."""
        grid = tokens.view(-1, self.side, self.side, self.patch, self.patch, self.out_channels)
        # Row and column of the patch, row and column inside it, channel.
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, self.side * self.patch, self.side * self.patch)

    def _draw_weights(self) -> None:
        """Initial weights: Glorot's uniform for matrices, normal for table and timestep MLP, zero for modulations and output."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))  # a patch is one long input
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.time_mlp.linear_1, self.time_mlp.linear_2, self.class_table):
            if table is not None:
                nn.init.normal_(table.weight, std=_TABLE_STD)
        for name, weight in self.named_parameters():
            if "modulation" in name or name == "out.weight":
                nn.init.zeros_(weight)


def _project_text(text_width: int, width: int, layers: int) -> nn.Module:
    """One matrix, or an MLP of two, from pooled states (B, d) to the network's width."""
    if layers == 1:
        return nn.Linear(text_width, width)
    return nn.Sequential(nn.Linear(text_width, width), nn.SiLU(), nn.Linear(width, width))
