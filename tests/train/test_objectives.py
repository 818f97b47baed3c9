"""Objectives: how images become noisy, what is to be predicted, and what the loss of it is, against closed forms and diffusers."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from pydantic import ValidationError

from corruptkit_train.draws import draw_normal
from corruptkit_train.objectives import (
    STEPS,
    Flow,
    Noise,
    Schedule,
    Velocity,
    add_noise,
    alphas_cumprod,
    denoising_loss,
    draw_times,
    variational_bound,
)

IMAGES = torch.arange(6)
CLEAN = draw_normal(1, "start", IMAGES, (3, 4, 4)).clamp(-1, 1)
NOISE = draw_normal(2, "noise", IMAGES, (3, 4, 4))
TIMES = torch.tensor([0, 1, 250, 500, 750, 999])


@pytest.mark.parametrize(("objective", "kind"), [(Noise(), "epsilon"), (Velocity(), "v_prediction")])
def test_noisy_images_are_those_of_diffusers(objective: Noise | Velocity, kind: str) -> None:
    scheduler = DDPMScheduler(STEPS, 0.0001, 0.02, "linear", prediction_type=kind)
    noisy = add_noise(objective, CLEAN, NOISE, TIMES)
    assert torch.allclose(noisy.sample, scheduler.add_noise(CLEAN, NOISE, TIMES), atol=1e-6)
    target = NOISE if kind == "epsilon" else scheduler.get_velocity(CLEAN, NOISE, TIMES)
    assert torch.allclose(noisy.target, target, atol=1e-6)


def test_schedules_bear_their_right_names() -> None:
    """Of LDM and DiT, both called linear by their authors."""
    ldm = alphas_cumprod(Schedule(name="scaled_linear", beta_start=0.0015, beta_end=0.0195))
    roots = torch.linspace(0.0015**0.5, 0.0195**0.5, STEPS, dtype=torch.float64)
    assert torch.allclose(ldm.double(), torch.cumprod(1 - roots**2, 0), rtol=1e-4)
    dit = alphas_cumprod(Schedule())
    assert torch.allclose(dit.double(), torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64), 0), rtol=1e-4)
    assert ldm[-1] > 2 * dit[-1]


def test_a_flow_is_a_straight_line() -> None:
    times = torch.tensor([0.001, 0.1, 0.25, 0.5, 0.75, 0.999])
    noisy = add_noise(Flow(), CLEAN, NOISE, times)
    s = times.view(-1, 1, 1, 1)
    assert torch.equal(noisy.target, NOISE - CLEAN)
    assert torch.allclose(noisy.sample - s * noisy.target, CLEAN, atol=1e-6)
    assert torch.allclose(noisy.timestep, 1000 * times)


def test_times_are_uniform_or_logit_normal() -> None:
    images = torch.arange(100_000)
    steps = draw_times(Noise(), images, 0)
    assert (int(steps.min()), int(steps.max())) == (0, 999)
    assert abs(steps.double().mean() - 499.5) < 5 * 289 / math.sqrt(100_000)
    flow = draw_times(Flow(), images, 0)
    assert 0 < flow.min() < flow.max() < 1
    logits = draw_times(Flow(times="logit_normal", mean=0.5, std=2.0), images, 0).double().logit()
    assert abs(logits.mean() - 0.5) < 0.04
    assert abs(logits.std() - 2) < 0.04


@pytest.mark.parametrize(("objective", "divisor"), [(Noise(min_snr=5.0), 0), (Velocity(min_snr=5.0), 1)])
def test_min_snr_weights(objective: Noise | Velocity, divisor: int) -> None:
    """A weight of min(SNR, 5) on x: eps = (x_t - alpha x)/sigma gives SNR of it, v SNR + 1."""
    alpha_bar = alphas_cumprod(Schedule())[TIMES]
    snr = alpha_bar / (1 - alpha_bar)
    assert torch.allclose(add_noise(objective, CLEAN, NOISE, TIMES).weight, snr.clamp(max=5) / (snr + divisor))


def test_input_noise_is_applied_and_not_predicted() -> None:
    noisy = add_noise(Noise(), CLEAN, NOISE, TIMES, applied=NOISE + 1)
    plain = add_noise(Noise(), CLEAN, NOISE, TIMES)
    sigma = (1 - alphas_cumprod(Schedule())[TIMES]).sqrt().view(-1, 1, 1, 1)
    assert torch.equal(noisy.target, NOISE)
    assert torch.allclose(noisy.sample - plain.sample, sigma.expand_as(NOISE), atol=1e-6)


def test_a_perfect_prediction_costs_nothing() -> None:
    for objective, times in ((Noise(), TIMES), (Velocity(), TIMES), (Flow(), torch.full((6,), 0.3))):
        noisy = add_noise(objective, CLEAN, NOISE, times)
        loss, error = denoising_loss(objective, noisy.target, noisy, CLEAN)
        assert loss.shape == (6,)
        assert float(loss.abs().max()) == 0 == float(error.max())


def test_the_bound_is_the_posteriors_divergence() -> None:
    """With the right mean, KL of two normal laws of the same mean; at v = 0 the variances agree and it vanishes (t > 0)."""
    noisy = add_noise(Noise(), CLEAN, NOISE, TIMES)
    exact = torch.cat((NOISE, torch.full_like(NOISE, -1.0)), dim=1)  # a fraction of 0: the posterior's own variance
    bits = variational_bound(Schedule(), exact, noisy, CLEAN)
    assert float(bits[1:].abs().max()) < 1e-5
    wide = variational_bound(Schedule(), torch.cat((NOISE, torch.ones_like(NOISE)), dim=1), noisy, CLEAN)
    alpha_bar = alphas_cumprod(Schedule()).double()
    for place, step in enumerate(TIMES.tolist()[1:], 1):
        beta = 1 - alpha_bar[step] / alpha_bar[step - 1]
        posterior = beta * (1 - alpha_bar[step - 1]) / (1 - alpha_bar[step])
        expected = 0.5 * (math.log(beta / posterior) - 1 + posterior / beta) / math.log(2)
        assert float(wide[place]) == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


def test_the_first_step_is_the_surprise_of_8_bit_pixels() -> None:
    """At t = 0 the cell around a value that the mean meets holds erf of half a cell in deviations."""
    clean = torch.full((1, 1, 2, 2), 0.25)
    times = torch.tensor([0])
    noise = torch.full_like(clean, 0.5)
    noisy = add_noise(Noise(), clean, noise, times)
    bits = variational_bound(Schedule(), torch.cat((noise, torch.ones_like(noise)), dim=1), noisy, clean)
    deviation = math.sqrt(1e-4)  # beta of the first step
    assert float(bits) == pytest.approx(-math.log2(math.erf(1 / 255 / deviation / math.sqrt(2))), rel=1e-3)


def test_the_variance_is_trained_by_its_own_term_alone() -> None:
    """The mean's half gets no gradient from the bound, the variance's half none from the error."""
    objective = Noise(learned_variance=True)
    noisy = add_noise(objective, CLEAN, NOISE, TIMES)
    prediction = torch.cat((0.9 * NOISE, torch.zeros_like(NOISE)), dim=1).requires_grad_()
    variational_bound(Schedule(), prediction, noisy, CLEAN).sum().backward()
    assert prediction.grad is not None
    assert float(prediction.grad[:, :3].abs().max()) == 0
    assert float(prediction.grad[:, 3:].abs().max()) > 0
    loss, error = denoising_loss(objective, prediction.detach(), noisy, CLEAN)
    bound = variational_bound(Schedule(), prediction.detach(), noisy, CLEAN)
    assert torch.allclose(loss, error + bound)  # lambda 0.001 times 1000 steps


def test_betas_ascend() -> None:
    with pytest.raises(ValidationError, match="beta_start"):
        Schedule(beta_start=0.03)
