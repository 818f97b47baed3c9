"""Images from a trained network: one start for each image number, any list of guidance scales in one pass.

Guidance is uncond + s (cond - uncond) (Ho & Salimans 2022; paper eq. 2): 1 is the conditional model alone. With a learned variance
the noise half is guided and the rest ignored, since the samplers here are deterministic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from corruptkit_train.conditions import Condition
from corruptkit_train.draws import draw_normal
from corruptkit_train.models.denoiser import Denoiser
from corruptkit_train.objectives import STEPS, Flow, Noise, Velocity

_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "flow": "flow_prediction"}


class SamplerConfig(BaseModel):
    """The paper's DPM-Solver++ of second order in 50 steps (`dpmpp`), DDIM (the paper's other one: 250 steps), or Euler for a flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["dpmpp", "ddim", "euler"] = "dpmpp"
    steps: Annotated[int, Field(gt=0, le=STEPS)] = 50
    scale: Annotated[float, Field(ge=0)] = 2.0  # of grids and where `sample` is not told
    interval: tuple[float, float] = (0.0, 1.0)  # guided where t / 1000 lies in it (Kynkäänniemi et al. 2024), else conditional
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast

    @model_validator(mode="after")
    def _order(self) -> SamplerConfig:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"found interval = {list(self.interval)}, expected 0 <= low <= high <= 1")
        return self


def make_scheduler(objective: Noise | Velocity | Flow, sampler: SamplerConfig) -> Any:
    """The diffusers scheduler that samples what an objective trained. Raises ValueError where the two do not go together."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    if objective.kind == "flow":
        if sampler.name == "euler":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS)
        if sampler.name == "dpmpp":
            return DPMSolverMultistepScheduler(STEPS, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
        raise ValueError("found sampler ddim with a flow, expected dpmpp or euler")
    schedule = objective.schedule
    betas = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end, "beta_schedule": schedule.name}
    how = {"prediction_type": _PREDICTIONS[objective.kind], **betas}
    if sampler.name == "dpmpp":
        return DPMSolverMultistepScheduler(STEPS, **how)
    if sampler.name == "ddim":
        return DDIMScheduler(STEPS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", **how)
    raise ValueError(f"found sampler euler with {objective.kind}, expected dpmpp or ddim")


@dataclass(frozen=True)
class Trained:
    """What sampling needs of a run: its network, what that predicts, and the condition of one row that means none."""

    denoiser: Denoiser
    objective: Noise | Velocity | Flow
    null: Condition


@torch.no_grad()
def sample_latents(
    trained: Trained, sampler: SamplerConfig, condition: Condition, numbers: Tensor, *, seed: int, scales: Sequence[float]
) -> Tensor:
    """(S, B, C, H, W) float32: what the network makes of the start of each of (B,) image numbers, at each of S scales."""
    denoiser, scheduler = trained.denoiser, make_scheduler(trained.objective, sampler)
    scheduler.set_timesteps(sampler.steps)
    start = draw_normal(seed, "start", numbers, denoiser.sample_shape)
    count, channels = len(numbers), start.shape[1]
    sample = start.repeat(len(scales), 1, 1, 1)
    strength = torch.tensor(scales, device=sample.device).repeat_interleave(count).view(-1, 1, 1, 1)
    states, mask = _repeat(denoiser, condition, len(scales))
    empty, empty_mask = _repeat(denoiser, trained.null, len(scales) * count)
    with _precision(sampler, sample.device):
        for time in scheduler.timesteps:
            told = time.to(sample.device).expand(len(sample))
            predicted = denoiser(sample, told, states, mask)[:, :channels].float()
            if any(scale != 1 for scale in scales) and sampler.interval[0] <= float(time) / STEPS <= sampler.interval[1]:
                free = denoiser(sample, told, empty, empty_mask)[:, :channels].float()
                predicted = free + strength * (predicted - free)
            sample = scheduler.step(predicted, time, sample).prev_sample
    return sample.view(len(scales), count, *start.shape[1:])


def _repeat(denoiser: Denoiser, condition: Condition, times: int) -> tuple[Tensor, Tensor | None]:
    states = denoiser.embed(condition)
    mask = None if condition.mask is None else condition.mask.repeat(times, 1)
    return states.repeat(times, *[1] * (states.ndim - 1)), mask


def _precision(sampler: SamplerConfig, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if sampler.precision == "bf16" else nullcontext()


def to_pixels(images: Tensor) -> Tensor:
    """uint8 of images in [-1, 1]: clamped, (x + 1) 127.5, rounded to the nearest (halves to the even)."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def split_numbers(numbers: Tensor, batch: int) -> Iterator[tuple[slice, Tensor]]:
    """Image numbers in batches, with the place of each batch."""
    for start in range(0, len(numbers), batch):
        yield slice(start, start + batch), numbers[start : start + batch]
