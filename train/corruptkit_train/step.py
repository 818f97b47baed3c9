"""One training step as a module: the order of everything that happens to a condition, in one place.

    corruption (in the data) -> dropout -> embed -> perturbation -> network

It is a module so that DistributedDataParallel sees one forward pass: the class table's gradient is averaged like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from corruptkit_train.conditions import Condition, embed_conditions
from corruptkit_train.config import MachineConfig, RunConfig
from corruptkit_train.draws import draw_normal, draw_words
from corruptkit_train.objectives import add_noise, denoising_loss, draw_times
from corruptkit_train.perturbation import perturb_noise
from corruptkit_train.sharding import compile_regions, shard_step


class TrainingStep(nn.Module):
    """Losses of a micro-batch; every draw is keyed by (config.seed, purpose, image number)."""

    def __init__(self, denoiser: nn.Module, config: RunConfig, null: Condition) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.config, self.null = config, null

    def forward(self, clean: Tensor, numbers: Tensor, rows: Tensor, condition: Condition) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) losses and what to log, from clean images (B, C, H, W) in [-1, 1], (B,) image numbers and rows, and their conditions."""
        config, seed = self.config, self.config.seed
        # Dropout -> embed -> perturbation (paper eq. 8: the denoiser sees c(y) + delta), each drawn by image number.
        how = {"images": numbers, "rows": rows, "rate": config.condition.dropout, "seed": seed, "training": self.training}
        told = embed_conditions(self.denoiser, condition, self.null, config.perturbation, **how)  # type: ignore[arg-type]
        # The noise and the time of an image do not depend on its condition: a clean and a corrupted run of one seed share both.
        noise = draw_normal(seed, "noise", numbers, tuple(clean.shape[1:]))
        applied = perturb_noise(config.perturbation, noise, images=numbers, seed=seed, training=self.training)
        noisy = add_noise(config.objective, clean, noise, draw_times(config.objective, numbers, seed), applied=applied)
        prediction = self.denoiser(noisy.sample, noisy.timestep, told.states, told.mask)
        loss, error = denoising_loss(config.objective, prediction, noisy, clean)
        return loss, {"mse": error.mean(), **told.measures}


def place_step(step: TrainingStep, machine: MachineConfig, accelerator: Accelerator) -> nn.Module:
    """The step as it is called: laid out, checkpointed, compiled, and shared among the processes, as the machine's table says."""
    denoiser = step.denoiser
    inner: Any = getattr(denoiser, "unet", denoiser)
    if machine.checkpointing:
        inner.enable_gradient_checkpointing()
    if machine.channels_last and inner is not denoiser:
        inner.to(memory_format=torch.channels_last)
    if machine.compile:
        compile_regions(denoiser)
    if machine.sharding == "fsdp" and accelerator.num_processes > 1:
        shard_step(step, denoiser, accelerator)
        return step
    wrapped: nn.Module = accelerator.prepare_model(step)
    return wrapped


def seed_dropout(config: RunConfig, numbers: Tensor) -> None:
    """Masks within a network are torch's own draws: its generator begins anew at each pass, by the pass's first image number."""
    if getattr(config.model, "dropout", 0.0):
        torch.manual_seed(int(draw_words(config.seed, "units", numbers[:1], 1)))
