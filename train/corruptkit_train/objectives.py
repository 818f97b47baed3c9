"""What a network is trained to predict: noise (eps), velocity (v) or flow; how noisy images are made, and what their loss is.

All work on x in [-1, 1] (pixels) or latents, (B, C, H, W) float32. Diffusion: x_t = alpha x + sigma eps with alpha^2 + sigma^2 = 1
(Ho et al. 2020, eq. 4). Flow: x_s = (1 - s) x + s eps (Lipman et al. 2023; Esser et al. 2024), s in (0, 1); the network is told 1000 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from corruptkit_train.draws import Seed, draw_normal, draw_uniform

STEPS = 1000  # of the diffusion; a flow's time is told to the network on the same scale
_CPU = torch.device("cpu")
_VLB_WEIGHT = 0.001  # lambda of the hybrid objective (Nichol & Dhariwal 2021, eq. 16)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Schedule(_Part):
    """Betas by the names that diffusers has: LDM's "linear" is `scaled_linear` 0.0015 to 0.0195, DiT's is `linear` 0.0001 to 0.02."""

    name: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"  # the last one is the cosine; it needs no betas
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001  # at the first of 1,000 steps
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02  # at the last

    @model_validator(mode="after")
    def _ascend(self) -> Schedule:
        if self.beta_start >= self.beta_end:
            raise ValueError(f"found beta_start = {self.beta_start}, expected less than beta_end = {self.beta_end}")
        return self


class Noise(_Part):
    """Predict the noise (paper eq. 1); with `learned_variance`, the reverse variance as well."""

    kind: Literal["eps"] = "eps"
    schedule: Schedule = Schedule()
    learned_variance: bool = False  # as the model has it
    min_snr: Annotated[float, Field(gt=0)] | None = None  # gamma of Hang et al. 2023; 5 is theirs


class Velocity(_Part):
    """Predict v = alpha eps - sigma x (Salimans & Ho 2022)."""

    kind: Literal["v"] = "v"
    schedule: Schedule = Schedule()
    min_snr: Annotated[float, Field(gt=0)] | None = None  # gamma of Hang et al. 2023


class Flow(_Part):
    """Predict eps - x at a time that is uniform, or the logistic of a normal (Esser et al. 2024, eq. 19)."""

    kind: Literal["flow"] = "flow"
    times: Literal["uniform", "logit_normal"] = "uniform"  # how times are drawn
    mean: float = 0.0  # of the normal
    std: Annotated[float, Field(gt=0)] = 1.0  # of the normal


Objective = Annotated[Noise | Velocity | Flow, Field(discriminator="kind")]


@dataclass(frozen=True)
class Noisy:
    """Noisy images and what the network should say of them."""

    sample: Tensor  # (B, C, H, W)
    timestep: Tensor  # (B,): int64 in [0, 1000), or float in (0, 1000) for a flow
    target: Tensor  # (B, C, H, W)
    weight: Tensor  # (B,) of the squared error


def draw_times(objective: Noise | Velocity | Flow, images: Tensor, seed: Seed) -> Tensor:
    """The time of each image: int64 steps in [0, 1000), or a flow's s in (0, 1) as float32."""
    if objective.kind != "flow":
        return (draw_uniform(seed, "timestep", images) * STEPS).long()
    if objective.times == "logit_normal":
        return torch.sigmoid(objective.mean + objective.std * draw_normal(seed, "timestep", images))
    # The middle of one of 2^24 cells: 0 would be an image without noise.
    return draw_uniform(seed, "timestep", images) + 2.0**-25


def add_noise(objective: Noise | Velocity | Flow, clean: Tensor, noise: Tensor, times: Tensor, *, applied: Tensor | None = None) -> Noisy:
    """Noisy images; `applied` is the noise that is added where it differs from the noise to predict (input perturbation)."""
    added = noise if applied is None else applied
    if objective.kind == "flow":
        s = _broadcast(times, clean)
        return Noisy((1 - s) * clean + s * added, times * STEPS, noise - clean, torch.ones_like(times))
    alpha_bar = alphas_cumprod(objective.schedule, clean.device)[times]
    alpha, sigma = _broadcast(alpha_bar.sqrt(), clean), _broadcast((1 - alpha_bar).sqrt(), clean)
    target = noise if objective.kind == "eps" else alpha * noise - sigma * clean
    return Noisy(alpha * clean + sigma * added, times, target, _snr_weight(objective, alpha_bar))


def denoising_loss(objective: Noise | Velocity | Flow, prediction: Tensor, noisy: Noisy, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Per image, (B,) float32: the loss to minimise, and the plain mean squared error to log."""
    channels = clean.shape[1]
    error = (prediction[:, :channels].float() - noisy.target).square().flatten(1).mean(1)
    loss = noisy.weight * error
    if objective.kind == "eps" and objective.learned_variance:
        loss = loss + _VLB_WEIGHT * STEPS * variational_bound(objective.schedule, prediction.float(), noisy, clean)
    return loss, error.detach()


def _snr_weight(objective: Noise | Velocity, alpha_bar: Tensor) -> Tensor:
    """Hang et al. 2023: min(SNR, gamma) in terms of x; divided by SNR for a loss on eps, by SNR + 1 for one on v."""
    if objective.min_snr is None:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=objective.min_snr) / (snr if objective.kind == "eps" else snr + 1)


def variational_bound(schedule: Schedule, prediction: Tensor, noisy: Noisy, clean: Tensor) -> Tensor:
    """(B,) bits a dimension: KL of the posterior from the model's reverse step; at t = 0, -log likelihood of 8-bit pixels.

    Nichol & Dhariwal 2021, eq. 15: log variance = v log beta + (1 - v) log beta_tilde, with (v + 1)/2 of the network's second half.
    The mean is cut off from the gradient: this term trains the variance alone.
    """
    channels = clean.shape[1]
    eps, fraction = prediction[:, :channels].detach(), (prediction[:, channels:] + 1) / 2
    table = {name: _broadcast(values[noisy.timestep], clean) for name, values in _posterior(schedule, clean.device).items()}
    # x_0 from eps (Ho et al. 2020, eq. 4 solved for x), then the posterior's mean (their eq. 7).
    guess = ((noisy.sample - table["sigma"] * eps) / table["alpha"]).clamp(-1, 1)
    mean = table["of_clean"] * guess + table["of_noisy"] * noisy.sample
    true_mean = table["of_clean"] * clean + table["of_noisy"] * noisy.sample
    log_variance = fraction * table["log_beta"] + (1 - fraction) * table["log_posterior"]
    gap = log_variance - table["log_posterior"]
    kl = 0.5 * (gap - 1 + torch.exp(-gap) + (true_mean - mean).square() * torch.exp(-log_variance))
    first = _broadcast(noisy.timestep == 0, clean)
    return torch.where(first, _pixel_surprise(clean, mean, 0.5 * log_variance), kl).flatten(1).mean(1) / math.log(2)


def _pixel_surprise(clean: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log of a normal law's mass in the cell of 2/255 around each value; those at -1 and 1 are open (Ho et al. 2020, eq. 13)."""
    upper = torch.special.ndtr((clean - mean + 1 / 255) * torch.exp(-log_std))
    lower = torch.special.ndtr((clean - mean - 1 / 255) * torch.exp(-log_std))
    mass = torch.where(clean > 0.999, 1 - lower, torch.where(clean < -0.999, upper, upper - lower))
    return -mass.clamp(min=1e-12).log()


@lru_cache  # on each device once: a copy to a GPU in every step would wait for it
def alphas_cumprod(schedule: Schedule, device: torch.device = _CPU) -> Tensor:
    """(1000,) float32: alpha_bar of Ho et al. 2020, as diffusers' schedulers have it."""
    from diffusers import DDPMScheduler

    found: Tensor = DDPMScheduler(STEPS, schedule.beta_start, schedule.beta_end, schedule.name).alphas_cumprod
    return found.to(device)


@lru_cache
def _posterior(schedule: Schedule, device: torch.device = _CPU) -> dict[str, Tensor]:
    """(1000,) float32 each: what the posterior q(x_{t-1} | x_t, x_0) is made of (Ho et al. 2020, eq. 7), computed in float64."""
    alpha_bar = alphas_cumprod(schedule).double()
    before = torch.cat((torch.ones(1, dtype=torch.float64), alpha_bar[:-1]))
    beta = 1 - alpha_bar / before
    posterior = beta * (1 - before) / (1 - alpha_bar)
    posterior[0] = posterior[1]  # 0 at t = 0, whose logarithm nobody can use
    table = {
        "alpha": alpha_bar.sqrt(),
        "sigma": (1 - alpha_bar).sqrt(),
        "of_clean": beta * before.sqrt() / (1 - alpha_bar),
        "of_noisy": (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar),
        "log_beta": beta.log(),
        "log_posterior": posterior.log(),
    }
    return {name: values.float().to(device) for name, values in table.items()}


def _broadcast(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))
