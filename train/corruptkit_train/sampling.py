"""Images from a trained network: one start for each image number, any list of guidance scales in one pass.

Guidance is uncond + s (cond - uncond) (Ho & Salimans 2022; paper eq. 2): 1 is the conditional model alone. With a learned variance
the noise half is guided and the rest ignored, since the samplers here are deterministic.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

import corruptkit as ck
from corruptkit_train.autoencoders import Autoencoder
from corruptkit_train.conditions import Condition
from corruptkit_train.draws import draw_normal
from corruptkit_train.models.denoiser import Denoiser
from corruptkit_train.objectives import STEPS, Flow, Noise, Velocity

# What samples what: DDIM knows no flow, and Euler's straight steps fit nothing else.
SAMPLERS = (("eps", "dpmpp"), ("eps", "ddim"), ("v", "dpmpp"), ("v", "ddim"), ("flow", "dpmpp"), ("flow", "euler"))
_MOST_DPMPP = STEPS // 2  # with more, two of its times may be cut to one whole number, and it divides by their distance


class SamplerConfig(BaseModel):
    """The paper's DPM-Solver++ of second order in 50 steps (`dpmpp`), DDIM (the paper's other one: 250 steps), or Euler for a flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["dpmpp", "ddim", "euler"] = "dpmpp"
    steps: Annotated[int, Field(gt=0, le=STEPS)] = 50
    scale: Annotated[float, Field(ge=0, lt=1e6)] = 2.0  # of grids and where `sample` is not told
    interval: tuple[float, float] = (0.0, 1.0)  # guided where t / 1000 lies in it (Kynkäänniemi et al. 2024), else conditional
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: the network's weights and activations; the sampler's sums stay float32

    @model_validator(mode="after")
    def _check(self) -> SamplerConfig:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"found interval = {list(self.interval)}, expected 0 <= low <= high <= 1")
        if self.name == "dpmpp" and self.steps > _MOST_DPMPP:
            raise ValueError(f"found steps = {self.steps} with dpmpp, expected at most {_MOST_DPMPP}; it needs 50 or fewer")
        if self.name == "ddim" and STEPS % self.steps:
            # diffusers goes down by 1000 // steps, whatever the distance to the next time is.
            raise ValueError(f"found steps = {self.steps} with ddim, expected a divisor of {STEPS}, such as 50 or 250")
        return self


def make_scheduler(objective: Noise | Velocity | Flow, sampler: SamplerConfig) -> Any:
    """The diffusers scheduler that samples what an objective trained; the pair is one of SAMPLERS."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    from corruptkit_train.pipelines.pipeline import PREDICTIONS

    how: dict[str, Any] = {"prediction_type": PREDICTIONS[objective.kind]}
    if objective.kind != "flow":
        schedule = objective.schedule
        how |= {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end, "beta_schedule": schedule.name}
    elif sampler.name == "dpmpp":
        how |= {"use_flow_sigmas": True, "flow_shift": 1.0}
    if sampler.name == "euler":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS)  # it knows flow alone, and has no word for it
    if sampler.name == "dpmpp":
        return DPMSolverMultistepScheduler(STEPS, **how)
    # "trailing" begins at 999, where training has seen almost nothing but noise; clipping belongs to pixels alone.
    return DDIMScheduler(STEPS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing", **how)


@dataclass(frozen=True)
class Trained:
    """What sampling needs of a run: its network, what that predicts, the condition of one row that means none, and where it runs.

    `autoencoder` makes images of what the network makes, where that is latents.
    """

    denoiser: Denoiser
    objective: Noise | Velocity | Flow
    null: Condition
    autoencoder: Autoencoder | None = None
    device: torch.device | str = "cpu"
    kind: torch.dtype = torch.float32  # of the network's weights and activations
    copies: int = 1  # of the start, side by side in the channels: one for each network of an ensemble


def place_model(trained: Trained, sampler: SamplerConfig, device: torch.device | str) -> Trained:
    """The same on a device, in the sampler's precision; its network is changed in place.

    The whole network in bfloat16, not autocast: that would round every weight anew in each of the steps.
    """
    kind = torch.bfloat16 if sampler.precision == "bf16" else torch.float32
    assert isinstance(trained.denoiser, nn.Module)
    if trained.autoencoder is not None:
        trained.autoencoder.model.to(device)  # it stays in float32
    nn.Module.to(trained.denoiser, device, kind)  # diffusers' own warns of layers to be kept in float32, of which there are none
    return replace(trained, device=device, kind=kind)


def find_device() -> torch.device:
    """This process's accelerator, or the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


@torch.no_grad()
def sample_latents(
    trained: Trained, sampler: SamplerConfig, condition: Condition, numbers: Tensor, *, seed: int, scales: Sequence[float]
) -> Tensor:
    """(S, B, C, H, W) float32: what the network makes of the start of each of (B,) image numbers, at each of S scales.

    With copies, C holds one image for each. Raises IntegrityError where that is no number.
    """
    from corruptkit_train.pipelines.pipeline import network_time

    scheduler, device, count = make_scheduler(trained.objective, sampler), trained.device, len(numbers)
    scheduler.set_timesteps(sampler.steps)
    # Drawn on the CPU whatever samples: normal numbers of two devices differ by rounding.
    start = draw_normal(seed, "start", numbers.cpu(), trained.denoiser.sample_shape).to(device)
    sample = start.repeat(len(scales), trained.copies, 1, 1)  # row s * B + b is image b at scale s
    told = _tell(trained, condition, len(scales))
    # Rows at scale 1 are never told the null condition: uncond + 1 (cond - uncond) is cond, but for rounding.
    strength = torch.tensor(scales, dtype=torch.float32, device=device).repeat_interleave(count)
    guided = (strength != 1).nonzero().flatten()
    null = _tell(trained, trained.null, len(guided))
    strength = strength[guided].view(-1, 1, 1, 1)
    low, high = sampler.interval
    for index, step in enumerate(scheduler.timesteps):
        time = network_time(scheduler, trained.objective.kind, index).to(device)
        predicted = _predict(trained, sample, time, told)
        if len(guided) and low <= float(time) / STEPS <= high:
            free = _predict(trained, sample[guided], time, null)
            predicted[guided] = free + strength * (predicted[guided] - free)
        sample = scheduler.step(predicted, step, sample).prev_sample
    _refuse_nan(sample, numbers)
    return sample.view(len(scales), count, *sample.shape[1:])


def decode_samples(trained: Trained, samples: Tensor) -> Tensor:
    """(S, B, C, H, W) images, about [-1, 1], of what `sample_latents` gives."""
    if trained.autoencoder is None:
        return samples
    images = trained.autoencoder.decode(samples.flatten(0, 1))
    return images.view(*samples.shape[:2], *images.shape[1:])


def _tell(trained: Trained, condition: Condition, times: int) -> tuple[Tensor, Tensor | None]:
    """The states (times * B, ...) of a condition of B rows, one after another, and their mask."""
    condition = condition.to(trained.device)
    states = trained.denoiser.embed(condition).to(trained.kind)
    mask = None if condition.mask is None else condition.mask.repeat(times, 1)
    return states.repeat(times, *[1] * (states.ndim - 1)), mask


def _predict(trained: Trained, sample: Tensor, time: Tensor, told: tuple[Tensor, Tensor | None]) -> Tensor:
    """(B, C, H, W) float32: what the network says, without a variance that it may have learnt."""
    output = trained.denoiser(sample.to(trained.kind), time.expand(len(sample)), *told)
    return output[:, : sample.shape[1]].float()


def _refuse_nan(sample: Tensor, numbers: Tensor) -> None:
    wrong = ~sample.flatten(1).isfinite().all(dim=1)
    if wrong.any():
        number = int(numbers[int(wrong.nonzero()[0]) % len(numbers)])
        do = "sample an earlier checkpoint, or in fp32 with a smaller scale"
        raise ck.IntegrityError(ck.Problem(f"image {number}", "its sample is no number (NaN or infinite)", "finite values", do))
