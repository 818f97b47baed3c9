"""Parts that pipelines are made of: a small text encoder, and a network that knows the right answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from corruptkit_train.encoders import Encoder, TextEncoder, load_encoder

MEAN, STD = 0.3, 0.2


def load_tiny(folder: Path, output: Any) -> Encoder:
    """The encoder of conftest.py, of at most 6 tokens."""
    return load_encoder(TextEncoder(name=str(folder), output=output, max_tokens=6))


class Oracle(ModelMixin, ConfigMixin):
    """The exact predictor where every number of an image is N(MEAN, STD^2) by itself; it notes the times that it is told."""

    @register_to_config
    def __init__(self, *, objective: str, sample_size: int = 8, in_channels: int = 4, classes: int = 2) -> None:  # noqa: ARG002 - a config
        super().__init__()
        self.out_channels = in_channels
        self.class_table = torch.nn.Embedding(classes + 1, 1)
        self.times: list[float] = []
        # The noise schedule of DiT: beta linear from 1e-4 to 0.02.
        self.signal = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    def forward(self, sample: torch.Tensor, time: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        assert len(states) == len(sample) == len(time)
        self.times.append(time[0].item())
        if self.config.objective == "flow":
            sigma = time[0].double() / 1000
            alpha = 1 - sigma
        else:
            alpha, sigma = self.signal[int(time[0])].sqrt(), (1 - self.signal[int(time[0])]).sqrt()
        # x_t = alpha x_0 + sigma e is N(alpha MEAN, alpha^2 STD^2 + sigma^2); what follows are conditional expectations.
        score = (sample.double() - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        noise, clean = sigma * score, MEAN + alpha * STD**2 * score
        return {"eps": noise, "v": alpha * noise - sigma * clean, "flow": noise - clean}[self.config.objective].float()
