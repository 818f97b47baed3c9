"""What training adds to embeddings and to noise: conditional embedding perturbation (CEP) and the baselines beside it.

CEP is eq. 8 of "Slight Corruption in Pre-training Data Makes Better Diffusion Models" (Chen et al., 2024): the denoiser is trained on
c(y) + delta in place of c(y), with delta drawn anew for each image. The paper leaves open how the scale reads where gamma is not 1,
what d is for tokens, and whether null rows take part: each is a field here, and its default is the first reading named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, assert_never

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, where
from torch.linalg import vector_norm

from corruptkit_train.draws import Seed, draw_normal, draw_uniform

Gamma = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Cep(BaseModel):
    """Noise on embeddings: uniform in +-gamma/sqrt(d) (CEP-U), or normal with a standard deviation of gamma/sqrt(d) (CEP-G)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["cep"] = "cep"
    distribution: Literal["uniform", "gaussian"] = "uniform"  # CEP-U, or CEP-G
    gamma: Gamma = 1.0  # the paper's strength: 1 for all its models
    scale: Literal["std", "sqrt_gamma"] = "std"  # std = gamma/sqrt(d), or sqrt(gamma/d); one number at gamma = 1
    d: Literal["last", "all"] = "last"  # D, or T*D: the width of one token, or of all tokens of an image
    null: bool = True  # as eq. 8 reads: the null row is an embedding like any other
    per_token: bool = True  # every coordinate its own draw, or one draw of D that all tokens of an image share
    fixed: bool = False  # "fixed CEP" (Table 7): delta belongs to the row of the data set and returns in each epoch
    share: Annotated[float, Field(ge=0, le=1)] = 1.0  # of rows (images, where not fixed) that are perturbed, each by a draw of its own

    @model_validator(mode="after")
    def _check_scale(self) -> Cep:
        if self.distribution == "uniform" and self.scale == "sqrt_gamma":
            raise ValueError("found scale 'sqrt_gamma' with a uniform distribution, expected 'std'; its half-width is gamma/sqrt(d)")
        return self


class InputNoise(BaseModel):
    """Input perturbation (Ning et al., 2023): x_t is built with eps + gamma * eps', the target stays eps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["input"] = "input"
    gamma: Gamma = 0.1  # of eps'; the paper does not state it, Ning et al. have 0.1


class EmbeddingDropout(BaseModel):
    """Dropout of an embedding's coordinates, scaled by 1 / (1 - rate) (Table 6)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dropout"] = "dropout"
    rate: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of coordinates


class LabelSmoothing(BaseModel):
    """(1 - rate) * e_y + rate * the mean of the table of classes (Table 6); a null row stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["smoothing"] = "smoothing"
    rate: Annotated[float, Field(ge=0, le=1)] = 0.1  # of the mean of all classes


Perturbation = Annotated[Cep | InputNoise | EmbeddingDropout | LabelSmoothing, Field(discriminator="kind")]


def _check_kinds(configs: tuple[Perturbation, ...]) -> tuple[Perturbation, ...]:
    """Two of one kind would make the same draws, so that the second is no noise of its own."""
    kinds = [config.kind for config in configs]
    twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
    if twice:
        raise ValueError(f"found '{twice[0]}' twice, expected each kind once; leave one out")
    return configs


Perturbations = Annotated[tuple[Perturbation, ...], AfterValidator(_check_kinds)]

# Whatever the order in which they are stated: a smoothed embedding loses coordinates, and what is left gets noise.
_ORDER = ("smoothing", "dropout", "cep", "input")


def perturb(  # noqa: PLR0913 - what keys the draws, by name
    configs: Sequence[Perturbation],
    states: Tensor,
    *,
    images: Tensor,
    rows: Tensor,
    dropped: Tensor,
    seed: Seed,
    table: Tensor | None = None,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The embeddings (B, D) or (B, T, D) as the network shall see them, and what was added to them; itself when not training.

    `images` (B,) int64 are image numbers of the run, `rows` (B,) rows of the data set, `dropped` (B,) is True where a row is null;
    `table` (K, D) or (K, 1, D) holds the embeddings of all classes. Padded tokens are perturbed like the others: a mask hides them.
    """
    if not training:
        return states, {}
    found = states
    for config in sorted(configs, key=lambda config: _ORDER.index(config.kind)):
        match config:
            case LabelSmoothing():
                found = _smooth_labels(config, found, dropped, table)
            case EmbeddingDropout():
                found = _drop_coordinates(config, found, images, seed)
            case Cep():
                found = _add_noise(config, found, rows if config.fixed else images, dropped, seed)
            case InputNoise():
                pass  # of the noise, not of embeddings: perturb_noise
            case _:
                assert_never(config)
    return found, measure_delta(states, found)


def perturb_noise(configs: Sequence[Perturbation], noise: Tensor, *, images: Tensor, seed: Seed, training: bool = True) -> Tensor:
    """The noise (B, C, H, W) that x_t is built with; the target of the loss stays the noise that was given."""
    for config in configs:
        if training and isinstance(config, InputNoise):
            # eps' is drawn apart from eps (purpose "noise"), so that the clean run of the same seed has the same eps.
            second = draw_normal(seed, "input", images, tuple(noise.shape[1:]))
            return noise + config.gamma * second.to(noise.dtype)
    return noise


def noise_scale(config: Cep, shape: Sequence[int]) -> float:
    """The half-width (uniform) or standard deviation (gaussian) for embeddings of a shape (D,) or (T, D)."""
    d = shape[-1] if config.d == "last" else math.prod(shape)
    size = config.gamma if config.scale == "std" else math.sqrt(config.gamma)
    # With d = D, E|delta|^2 of a token is gamma^2 (gaussian, std) or gamma^2 / 3 (uniform), whatever D is.
    return size / math.sqrt(d)


def _add_noise(config: Cep, states: Tensor, keys: Tensor, dropped: Tensor, seed: Seed) -> Tensor:
    """c(y) + delta (eq. 8). Nothing is detached: gradients reach the table through c(y), which may grow to outweigh delta."""
    shape = tuple(states.shape[1:])
    # One draw of D, spread over the tokens, or a draw for each of the T * D coordinates.
    drawn = shape if config.per_token else (*[1] * (len(shape) - 1), shape[-1])
    if config.distribution == "gaussian":
        unit = draw_normal(seed, "perturbation", keys, drawn)
    else:
        # k * 2^-24 in [0, 1) becomes (2k + 1 - 2^24) * 2^-24: odd multiples, exact in float32, so that the interval is symmetric.
        unit = draw_uniform(seed, "perturbation", keys, drawn).mul_(2.0).sub_(1.0).add_(2.0**-24)
    delta = (unit * noise_scale(config, shape)).to(states.dtype)
    if config.share == 1 and config.null:  # every draw lies below 1
        return states + delta
    kept = draw_uniform(seed, "share", keys) < config.share
    if not config.null:
        kept = kept & ~dropped
    # `where`, not a product with the mask: rows that take no part come through to the bit.
    return where(_as_rows(kept, states), states + delta, states)


def _drop_coordinates(config: EmbeddingDropout, states: Tensor, images: Tensor, seed: Seed) -> Tensor:
    """Each coordinate is 0 with probability `rate`, else scaled so that its mean stays."""
    kept = draw_uniform(seed, "embedding", images, tuple(states.shape[1:])) >= config.rate
    return states * (kept.to(states.dtype) / (1.0 - config.rate))


def _smooth_labels(config: LabelSmoothing, states: Tensor, dropped: Tensor, table: Tensor | None) -> Tensor:
    """A mixture of the class with all classes, as embeddings; gradients reach every row of the table through its mean."""
    if table is None:
        raise ValueError("found no table, expected the embeddings of all classes")
    smooth = (1.0 - config.rate) * states + config.rate * table.mean(dim=0)
    # The null row stands for no class: mixed with classes, it would not be what sampling calls unconditional.
    return where(_as_rows(dropped, states), states, smooth)


def measure_delta(clean: Tensor, perturbed: Tensor) -> dict[str, Tensor]:
    """Mean |c|, mean |delta| over rows and tokens, and the second over the first: tensors of one number, nothing waits for them."""
    clean, perturbed = clean.detach().float(), perturbed.detach().float()
    norm = vector_norm(clean, dim=-1).mean()
    delta = vector_norm(perturbed - clean, dim=-1).mean()
    # A table that starts at 0 has no norm: the ratio is then large, not NaN.
    return {"embedding_norm": norm, "delta_norm": delta, "delta_ratio": delta / norm.clamp_min(1e-12)}


def _as_rows(mask: Tensor, states: Tensor) -> Tensor:
    """A (B,) mask that spreads over (B, D) or (B, T, D)."""
    return mask.view(-1, *[1] * (states.ndim - 1))
