"""Sampling against closed forms: what it ends in, what the network is asked, and that an image is itself in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import corruptkit as ck
from corruptkit_train.conditions import Condition
from corruptkit_train.draws import draw_normal
from corruptkit_train.objectives import STEPS, Flow, Noise, Schedule, Velocity, alphas_cumprod
from corruptkit_train.pipelines.pipeline import round_pixels
from corruptkit_train.sampling import SAMPLERS, SamplerConfig, Trained, make_scheduler, place_model, sample_latents
from tests.train.networks import KINDS, WIDTH, build_kind, draw_some

torch.set_num_threads(1)
SHAPE, STD = (2, 4, 4), 0.3
MEANS = (-0.4, 0.1, 0.5, 0.2)  # of three classes, and of the null id
OBJECTIVES: dict[str, Any] = {"eps": Noise(), "v": Velocity(schedule=Schedule(name="squaredcos_cap_v2")), "flow": Flow()}
NUMBERS = torch.arange(6)


class Gaussian(nn.Module):
    """The exact predictor where every number of an image of class c is N(MEANS[c], STD^2); it notes what it is asked."""

    sample_shape, classes, width = SHAPE, len(MEANS) - 1, 1

    def __init__(self, objective: Any, *, learned: bool = False) -> None:
        super().__init__()
        self.objective, self.learned = objective, learned
        self.asked: list[tuple[float, list[float]]] = []  # the time, and each row's mean

    def embed(self, condition: Condition) -> Tensor:
        return torch.tensor(MEANS)[condition.ids].unsqueeze(1)

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is None
        assert len(sample) == len(timestep) == len(states)
        assert (timestep == timestep[0]).all()
        self.asked.append((float(timestep[0]), states.flatten().tolist()))
        mean = states.double().view(-1, 1, 1, 1)
        if self.objective.kind == "flow":
            sigma = timestep[0].double() / STEPS
            alpha = 1 - sigma
        else:
            bar = alphas_cumprod(self.objective.schedule)[int(timestep[0])].double()
            alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        # x_t is N(alpha mean, alpha^2 STD^2 + sigma^2); what follows are conditional expectations.
        score = (sample.double() - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
        noise, clean = sigma * score, mean + alpha * STD**2 * score
        found = {"eps": noise, "v": alpha * noise - sigma * clean, "flow": noise - clean}[self.objective.kind].float()
        return torch.cat((found, torch.full_like(found, torch.nan)), dim=1) if self.learned else found


def sample_gaussian(objective: Any, sampler: SamplerConfig, scales: tuple[float, ...], **how: Any) -> tuple[Tensor, Gaussian]:
    network = Gaussian(objective, **how)
    trained = Trained(network, objective, Condition(ids=torch.tensor([3])))
    found = sample_latents(trained, sampler, Condition(ids=NUMBERS % 3), NUMBERS, seed=4, scales=scales)
    return found, network


@pytest.mark.parametrize(("objective", "name"), SAMPLERS)
def test_a_perfect_predictor_ends_where_guidance_points(objective: str, name: Any) -> None:
    """Guided at s, the exact predictions are those for the mean m + s (m_c - m): start z ends at that mean plus STD z."""
    sampler = SamplerConfig(name=name, steps=250 if name == "ddim" else 100)
    found, _ = sample_gaussian(OBJECTIVES[objective], sampler, (0.0, 1.0, 2.5))
    start = draw_normal(4, "start", NUMBERS, SHAPE)
    own = torch.tensor(MEANS)[NUMBERS % 3]
    for scale, images in zip((0.0, 1.0, 2.5), found, strict=True):
        mean = (MEANS[3] + scale * (own - MEANS[3])).view(-1, 1, 1, 1)
        # First-order samplers are late by a step at both ends; a mean of another class or scale would be off by 0.1 or more.
        assert (images - mean - STD * start).abs().max() < 0.06


def test_250_steps_are_250_times_from_999_down() -> None:
    _, network = sample_gaussian(Noise(), SamplerConfig(name="ddim", steps=250), (1.0,))
    times = [time for time, _ in network.asked]
    assert len(times) == 250
    assert times == sorted(set(times), reverse=True)
    assert (times[0], times[-1]) == (999, 3)


def test_a_flow_is_told_a_thousand_sigma_by_both_samplers() -> None:
    for name in ("dpmpp", "euler"):
        _, network = sample_gaussian(Flow(), SamplerConfig(name=name, steps=7), (1.0,))  # type: ignore[arg-type] # a literal
        scheduler = make_scheduler(Flow(), SamplerConfig(name=name))  # type: ignore[arg-type] # a literal
        scheduler.set_timesteps(7)
        assert [time for time, _ in network.asked] == pytest.approx((scheduler.sigmas[:-1] * 1000).tolist())
    assert any(time != int(time) for time, _ in network.asked)


def test_scale_1_asks_for_no_null_prediction() -> None:
    sampler, null = SamplerConfig(steps=5), MEANS[3]
    _, network = sample_gaussian(Noise(), sampler, (1.0,))
    assert [len(rows) for _, rows in network.asked] == [6] * 5
    _, network = sample_gaussian(Noise(), sampler, (1.0, 1.5, 2.0))
    # Of three scales two are guided: 18 rows with a condition, 12 without.
    assert [len(rows) for _, rows in network.asked] == [18, 12] * 5
    assert all(rows == pytest.approx([null] * 12) for _, rows in network.asked[1::2])


def test_guidance_keeps_to_its_interval() -> None:
    sampler = SamplerConfig(steps=10, interval=(0.3, 0.7))
    found, network = sample_gaussian(Velocity(), sampler, (2.0,))
    free = [time for time, rows in network.asked if rows == pytest.approx([MEANS[3]] * 6)]
    told = [time for time, rows in network.asked if rows != pytest.approx([MEANS[3]] * 6)]
    assert len(told) == 10
    assert free == [time for time in told if 300 <= time <= 700]
    assert 0 < len(free) < 10
    whole, _ = sample_gaussian(Velocity(), SamplerConfig(steps=10), (2.0,))
    none, _ = sample_gaussian(Velocity(), SamplerConfig(steps=10), (1.0,))
    assert not torch.allclose(found, whole, atol=0.01)
    assert not torch.allclose(found, none, atol=0.01)


def test_a_learned_variance_changes_nothing() -> None:
    for name in ("dpmpp", "ddim"):
        sampler = SamplerConfig(name=name, steps=5)  # type: ignore[arg-type] # a literal
        plain, _ = sample_gaussian(Noise(), sampler, (1.0, 2.0))
        learned, _ = sample_gaussian(Noise(learned_variance=True), sampler, (1.0, 2.0), learned=True)
        assert torch.equal(plain, learned)


def trained_kind(kind: str) -> tuple[Trained, Condition]:
    """A network of a kind with random weights, and six conditions for it."""
    _, classes, width, tokens = KINDS[kind]
    if classes is not None:
        return Trained(build_kind(kind), Noise(), Condition(ids=torch.tensor([classes]))), Condition(ids=NUMBERS % classes)
    assert width == WIDTH
    states = draw_some((7, 5, WIDTH) if tokens else (7, WIDTH))
    mask = torch.arange(5) <= torch.arange(7).unsqueeze(1) % 5 if tokens else None
    condition = Condition(states=states, mask=mask)
    return Trained(build_kind(kind), Noise(), condition.take(torch.tensor([6]))), condition.take(NUMBERS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_itself_in_any_batch_and_any_list_of_scales(kind: str) -> None:
    """Equal but for rounding: matrix products of other sizes are summed in another order."""
    trained, condition = trained_kind(kind)
    sampler = SamplerConfig(steps=4)

    def sample(numbers: list[int], scales: tuple[float, ...]) -> Tensor:
        some = torch.tensor(numbers)
        return sample_latents(trained, sampler, condition.take(some), some, seed=1, scales=scales)

    together = sample([0, 1, 2, 3, 4, 5], (1.0, 1.5, 3.0))
    assert together.shape == (3, 6, 3, 8, 8)
    alone = {scale: sample([4], (scale,)) for scale in (1.0, 1.5, 3.0)}
    size = together.abs().max()
    for place, scale in enumerate((1.0, 1.5, 3.0)):
        assert torch.allclose(together[place, 4], alone[scale][0, 0], rtol=1e-3, atol=1e-4 * size)
    assert torch.allclose(sample([5, 4], (3.0, 1.5))[1, 1], alone[1.5][0, 0], rtol=1e-3, atol=1e-4 * size)
    # Conditions, starts and scales all tell: nothing of the above is equal for want of a difference.
    assert not torch.allclose(together[0, 4], together[2, 4], rtol=1e-2, atol=1e-3 * size)
    assert not torch.allclose(together[1, 3], together[1, 4], rtol=1e-2, atol=1e-3 * size)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_near_float32(kind: str) -> None:
    (full, condition), (half, _) = trained_kind(kind), trained_kind(kind)
    sampler = SamplerConfig(steps=4, precision="bf16")
    half = place_model(half, sampler, "cpu")
    wide, narrow = (sample_latents(it, sampler, condition, NUMBERS, seed=1, scales=(1.0, 2.0)) for it in (full, half))
    assert narrow.dtype == torch.float32
    error = (wide - narrow).abs().mean() / wide.std()
    assert 0 < error < 0.1


def test_a_sample_that_is_no_number_is_refused() -> None:
    trained, condition = trained_kind("dit-class")
    with torch.no_grad():
        next(iter(trained.denoiser.parameters()))[0] = torch.nan  # type: ignore[attr-defined] # a module
    with pytest.raises(ck.IntegrityError, match=r"image 7: its sample is no number .*; sample an earlier checkpoint"):
        sample_latents(trained, SamplerConfig(steps=2), condition, NUMBERS + 7, seed=1, scales=(1.0,))


@pytest.mark.parametrize(("objective", "name"), SAMPLERS)
def test_every_number_of_steps_that_is_taken_is_sound(objective: str, name: Any) -> None:
    """DPM-Solver cuts times to whole numbers and divides by their distances; DDIM's steps are whole numbers, its times are not."""
    wrong = {"dpmpp": range(501, 1001), "ddim": [steps for steps in range(1, 1001) if 1000 % steps], "euler": []}[name]
    for steps in range(1, 1001):
        if steps in wrong:
            with pytest.raises(ValueError, match=f"found steps = {steps} with {name}, expected"):
                SamplerConfig(name=name, steps=steps)
        elif steps % 25 == 0 or steps in (1, 2, 3, 8, 333, 499, 999):
            scheduler = make_scheduler(OBJECTIVES[objective], SamplerConfig(name=name, steps=steps))
            scheduler.set_timesteps(steps)
            times = scheduler.timesteps.tolist()
            assert len(times) == len(set(times)) == steps
            assert min(times) >= 0
            assert steps < 333 or _ends(scheduler).isfinite().all()


def _ends(scheduler: Any) -> Tensor:
    sample = torch.ones(1, 1, 2, 2)
    for step in scheduler.timesteps:
        sample = scheduler.step(0.1 * sample, step, sample).prev_sample
    return sample


def test_pixels_are_rounded_to_the_nearest() -> None:
    levels = torch.arange(256)
    exact = levels.float() / 127.5 - 1
    assert torch.equal(round_pixels(exact), levels.to(torch.uint8))
    assert torch.equal(round_pixels(exact + 0.49 / 127.5), levels.to(torch.uint8))
    assert torch.equal(round_pixels(exact - 0.49 / 127.5), levels.to(torch.uint8))
    assert round_pixels(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
