"""Perturbations by their formulas: moments, ranges, norms, what each draw depends on, and when nothing is added."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from corruptkit_train.perturbation import (
    Cep,
    EmbeddingDropout,
    InputNoise,
    LabelSmoothing,
    Perturbation,
    Perturbations,
    perturb,
    perturb_noise,
)

COUNT, WIDTH, TOKENS = 2048, 64, 4
UNIFORM, GAUSSIAN = Cep(), Cep(distribution="gaussian")


def delta_of(config: Perturbation, states: Tensor, *, first: int = 0, row: int = 0, **how: Any) -> Tensor:
    """What one perturbation adds to states of images first, first + 1, ... that lie in rows row, row + 1, ..."""
    images, rows = torch.arange(first, first + len(states)), torch.arange(row, row + len(states))
    how = {"dropped": torch.zeros(len(states), dtype=torch.bool), "seed": 0, **how}
    return perturb([config], states, images=images, rows=rows, **how)[0] - states


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape or (COUNT, WIDTH))


def kurtosis(values: Tensor) -> float:
    values = values.double() - values.double().mean()
    return float((values**4).mean() / (values**2).mean() ** 2)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 5.0])
def test_cep_u_is_uniform_within_gamma_by_the_root_of_d(gamma: float) -> None:
    delta, half = delta_of(Cep(gamma=gamma), zeros()), gamma / math.sqrt(WIDTH)
    assert delta.abs().max() <= half
    assert delta.max() > 0.999 * half
    assert delta.min() < -0.999 * half
    # The mean of n draws has a standard deviation of half / sqrt(3 n): five of them.
    assert abs(delta.mean()) < 5 * half / math.sqrt(3 * delta.numel())
    assert delta.var() == pytest.approx(half**2 / 3, rel=0.02)
    assert kurtosis(delta) == pytest.approx(1.8, abs=0.02)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 5.0])
def test_cep_g_is_normal_with_a_deviation_of_gamma_by_the_root_of_d(gamma: float) -> None:
    delta, deviation = delta_of(Cep(distribution="gaussian", gamma=gamma), zeros()), gamma / math.sqrt(WIDTH)
    assert abs(delta.mean()) < 5 * deviation / math.sqrt(delta.numel())
    assert delta.std() == pytest.approx(deviation, rel=0.01)
    assert kurtosis(delta) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("width", [16, 64, 512])
def test_the_norm_depends_on_gamma_alone(width: int) -> None:
    for config, expected in ((Cep(gamma=3), 9 / 3), (Cep(distribution="gaussian", gamma=3), 9)):
        assert delta_of(config, zeros(COUNT, width)).square().sum(-1).mean() == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("gamma", [0.1, 1.0, 5.0])
def test_the_other_reading_of_the_scale_is_the_root_of_gamma_by_d(gamma: float) -> None:
    deviation = delta_of(Cep(distribution="gaussian", gamma=gamma, scale="sqrt_gamma"), zeros()).std()
    assert deviation == pytest.approx(math.sqrt(gamma / WIDTH), rel=0.01)
    same = delta_of(Cep(distribution="gaussian", gamma=gamma), zeros()).std()
    assert (deviation == same) == (gamma == 1)


def test_d_of_all_tokens_is_t_times_d() -> None:
    states = zeros(COUNT, TOKENS, WIDTH)
    for config, last in ((Cep(d="all"), UNIFORM), (Cep(distribution="gaussian", d="all"), GAUSSIAN)):
        torch.testing.assert_close(delta_of(config, states), delta_of(last, states) / math.sqrt(TOKENS))
    # The whole row's squared norm is then gamma^2, as a token's is with d = last.
    assert delta_of(Cep(distribution="gaussian", d="all"), states).square().sum((1, 2)).mean() == pytest.approx(1, rel=0.04)


def test_tokens_share_a_draw_only_when_asked_to() -> None:
    states = zeros(COUNT, TOKENS, WIDTH)
    for config in (UNIFORM, GAUSSIAN):
        own, shared = delta_of(config, states), delta_of(config.model_copy(update={"per_token": False}), states)
        assert (shared == shared[:, :1]).all()
        assert abs(torch.corrcoef(own[:, :2].transpose(0, 1).flatten(1))[0, 1]) < 0.02
        assert shared.var() == pytest.approx(own.var().item(), rel=0.03)


@pytest.mark.parametrize("config", [UNIFORM, GAUSSIAN, Cep(per_token=False), Cep(share=0.5), EmbeddingDropout()])
def test_a_draw_does_not_depend_on_the_batch(config: Perturbation) -> None:
    states = torch.ones(60, TOKENS, WIDTH)
    whole = delta_of(config, states)
    parts = [delta_of(config, states[first : first + 7], first=first, row=first) for first in range(0, 60, 7)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, delta_of(config, states, seed=1))


def test_cep_is_drawn_anew_in_each_epoch_unless_it_is_fixed() -> None:
    states = zeros(100, WIDTH)
    for distribution in ("uniform", "gaussian"):
        fixed, fresh = Cep(distribution=distribution, fixed=True), Cep(distribution=distribution)
        assert torch.equal(delta_of(fixed, states), delta_of(fixed, states, first=100))
        assert not torch.equal(delta_of(fixed, states), delta_of(fixed, states, row=100))
        assert not (delta_of(fresh, states) == delta_of(fresh, states, first=100)).any(1).all()
        assert torch.equal(delta_of(fresh, states), delta_of(fresh, states, row=100))


def perturbed_rows(share: float, **how: Any) -> Tensor:
    return (delta_of(Cep(share=share, fixed=True), zeros(), **how) != 0).any(1)


def test_a_share_of_rows_is_perturbed_the_same_ones_at_a_greater_share() -> None:
    few, more = perturbed_rows(0.1), perturbed_rows(0.3)
    for found, share in ((few, 0.1), (more, 0.3)):  # a draw for each row: within five standard deviations
        assert abs(int(found.sum()) - share * COUNT) < 5 * math.sqrt(COUNT * share * (1 - share))
    assert not (few & ~more).any()
    assert torch.equal(perturbed_rows(0.1, first=COUNT), few)
    assert (int(perturbed_rows(0).sum()), int(perturbed_rows(1).sum())) == (0, COUNT)


def test_who_is_perturbed_says_nothing_about_by_how_much() -> None:
    chosen, all_of_them = delta_of(Cep(share=0.5), zeros()), delta_of(Cep(), zeros())
    hit = (chosen != 0).any(1)
    assert torch.equal(chosen[hit], all_of_them[hit])
    assert abs(chosen[hit].mean()) < 5 / math.sqrt(3 * WIDTH * chosen[hit].numel())


@pytest.mark.parametrize("config", [UNIFORM, GAUSSIAN])
def test_null_rows_are_perturbed_unless_told_otherwise(config: Cep) -> None:
    states, dropped = torch.ones(200, WIDTH), torch.arange(200) % 3 == 0
    every = delta_of(config, states, dropped=dropped)
    assert (every != 0).any(1).all()
    clean = delta_of(config.model_copy(update={"null": False}), states, dropped=dropped)
    assert (clean[dropped] == 0).all()
    assert torch.equal(clean[~dropped], every[~dropped])


def test_a_gradient_reaches_the_table_through_the_perturbed_embedding() -> None:
    table = torch.nn.Parameter(torch.ones(10, WIDTH))
    ids = torch.arange(8)
    configs = [Cep(), EmbeddingDropout(rate=0.5), LabelSmoothing(rate=0.5)]
    for config in configs:
        states = table[ids]
        how = {"images": ids, "rows": ids, "dropped": torch.zeros(8, dtype=torch.bool), "seed": 0, "table": table}
        found, statistics = perturb([config], states, **how)
        (gradient,) = torch.autograd.grad((found**2).sum(), table)
        assert (gradient[:8] != 0).any(1).all()
        assert not any(value.requires_grad for value in statistics.values())
    found, _ = perturb([Cep()], table[ids], **how)
    (gradient,) = torch.autograd.grad(found.sum(), table)
    assert torch.equal(gradient[:8], torch.ones(8, WIDTH))  # d(c + delta) / dc = 1


def test_outside_training_the_very_states_come_back() -> None:
    states, ids = torch.ones(4, WIDTH), torch.arange(4)
    configs = [Cep(), EmbeddingDropout(), LabelSmoothing(), InputNoise()]
    found, statistics = perturb(configs, states, images=ids, rows=ids, dropped=ids < 0, seed=0, training=False)
    assert found is states
    assert statistics == {}
    noise = torch.ones(4, 3, 8, 8)
    assert perturb_noise(configs, noise, images=ids, seed=0, training=False) is noise
    assert perturb_noise([Cep()], noise, images=ids, seed=0) is noise


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_input_noise_is_a_second_one_of_its_own(gamma: float) -> None:
    images, noise = torch.arange(64), torch.ones(64, 3, 16, 16)
    second = perturb_noise([InputNoise(gamma=gamma)], noise, images=images, seed=0) - noise
    assert second.std() == pytest.approx(gamma, rel=0.02)
    assert kurtosis(second) == pytest.approx(3, abs=0.1)
    part = perturb_noise([InputNoise(gamma=gamma)], noise[:5], images=images[20:25], seed=0) - noise[:5]
    assert torch.equal(part, second[20:25])
    assert (noise == 1).all()  # the target is what was given, untouched


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_has_its_rate_and_keeps_the_mean(rate: float) -> None:
    states = torch.full((COUNT, WIDTH), 3.0)
    found = states + delta_of(EmbeddingDropout(rate=rate), states)
    lost = (found == 0).sum().item()
    assert abs(lost - rate * found.numel()) < 5 * math.sqrt(found.numel() * rate * (1 - rate))
    torch.testing.assert_close(found[found != 0], torch.full((found.numel() - int(lost),), 3 / (1 - rate)))
    assert found.mean() == pytest.approx(3, rel=0.02)
    assert (delta_of(EmbeddingDropout(rate=0), states) == 0).all()


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH)])
def test_smoothing_mixes_a_class_with_the_mean_of_all(shape: tuple[int, ...]) -> None:
    table = torch.eye(10, WIDTH).view(10, *shape)
    ids, dropped = torch.arange(10), torch.arange(10) == 9
    how = {"images": ids, "rows": ids, "dropped": dropped, "seed": 0}
    found, _ = perturb([LabelSmoothing(rate=0.2)], table[ids], table=table, **how)
    torch.testing.assert_close(found[:9], 0.8 * table[:9] + 0.2 * table.mean(0))
    torch.testing.assert_close(found[0].flatten()[:3], torch.tensor([0.82, 0.02, 0.02]))
    assert torch.equal(found[9], table[9])
    with pytest.raises(ValueError, match="no table"):
        perturb([LabelSmoothing()], table, **how)


def test_perturbations_apply_in_one_order_however_stated() -> None:
    configs = [Cep(), LabelSmoothing(rate=0.3), EmbeddingDropout(rate=0.3), InputNoise()]
    table = torch.eye(10, WIDTH)
    ids = torch.arange(10)
    how = {"images": ids, "rows": ids, "dropped": ids < 0, "seed": 0, "table": table}
    found, statistics = perturb(configs, table, **how)
    assert torch.equal(perturb(configs[::-1], table, **how)[0], found)
    one_by_one = table
    for config in (configs[1], configs[2], configs[0]):
        one_by_one = perturb([config], one_by_one, **how)[0]
    assert torch.equal(one_by_one, found)
    assert statistics["delta_norm"] == pytest.approx((found - table).norm(dim=-1).mean().item())


def test_statistics_tell_norms_and_their_ratio() -> None:
    states = torch.full((COUNT, WIDTH), 0.25)  # a norm of 2
    images = torch.arange(COUNT)
    how = {"images": images, "rows": images, "dropped": images < 0, "seed": 0}
    found = {name: value.item() for name, value in perturb([GAUSSIAN], states, **how)[1].items()}
    assert found == pytest.approx({"embedding_norm": 2, "delta_norm": 1, "delta_ratio": 0.5}, rel=0.02)
    none = {name: value.item() for name, value in perturb([], zeros(), **how)[1].items()}
    assert none == {"embedding_norm": 0, "delta_norm": 0, "delta_ratio": 0}


def test_half_precision_stays_half_precision() -> None:
    for config in (UNIFORM, GAUSSIAN, EmbeddingDropout()):
        assert delta_of(config, torch.ones(4, WIDTH, dtype=torch.bfloat16)).dtype == torch.bfloat16
    noise = torch.ones(4, 1, 2, 2, dtype=torch.bfloat16)
    assert perturb_noise([InputNoise()], noise, images=torch.arange(4), seed=0).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ([{"kind": "cep", "distribution": "uniform", "scale": "sqrt_gamma"}], "half-width is gamma/sqrt"),
        ([{"kind": "cep", "gamma": -1}], "greater than or equal to 0"),
        ([{"kind": "cep", "gamma": "nan"}], "finite number"),
        ([{"kind": "cep", "share": 1.5}], "less than or equal to 1"),
        ([{"kind": "cep", "gama": 1}], "Extra inputs are not permitted"),
        ([{"kind": "dropout", "rate": 1}], "less than 1"),
        ([{"kind": "cap"}], "'cep', 'input', 'dropout', 'smoothing'"),
        ([{"kind": "cep"}, {"kind": "cep", "gamma": 2}], "found 'cep' twice, expected each kind once"),
    ],
)
def test_a_wrong_perturbation_is_refused(stated: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Perturbations).validate_python(stated)


def test_perturbations_are_read_from_plain_values() -> None:
    stated = [{"kind": "cep", "distribution": "gaussian", "gamma": 5}, {"kind": "input"}, {"kind": "dropout"}, {"kind": "smoothing"}]
    found = TypeAdapter(Perturbations).validate_python(stated)
    assert found == (Cep(distribution="gaussian", gamma=5), InputNoise(gamma=0.1), EmbeddingDropout(rate=0.1), LabelSmoothing(rate=0.1))
