"""Many networks of one architecture as one: weights have a leading dimension of M members, and one batched pass serves all of them.

`torch.func.vmap` over the networks' own code makes a batched product (bmm) of each linear layer, and a grouped one of each convolution,
so that what a network computes is written once. Members are mathematically apart: the loss is a sum over members, whose gradient
with respect to the weights of one is that of its own loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.optim.adamw import adamw

import corruptkit as ck
from corruptkit_train.conditions import Condition, embed_conditions
from corruptkit_train.config import OptimiserConfig, RunConfig
from corruptkit_train.draws import draw_normal
from corruptkit_train.objectives import Noisy, add_noise, denoising_loss, draw_times
from corruptkit_train.perturbation import perturb_noise

_CLIP_EPSILON = 1e-6  # beside the norm, as torch.nn.utils.clip_grad_norm_ has it
Weights = Mapping[str, Tensor]


class _Call(nn.Module):
    """A network whose methods are called with other weights in the place of its own."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, method: str, *inputs: Any) -> Any:
        return getattr(self.denoiser, method)(*inputs)


class Stack:
    """M networks side by side; `denoiser` is one of their kind whose parameters, by their usual names, are of shape (M, ...)."""

    def __init__(self, denoisers: Sequence[nn.Module]) -> None:
        self.members, self.denoiser = len(denoisers), stack_weights(denoisers)
        self._call = _Call(self.denoiser)

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        return dict(self.denoiser.named_parameters())

    def run(self, method: str, *inputs: Tensor | None, shared: Sequence[int] = (), weights: Weights | None = None) -> Tensor:
        """(M, ...): a method of each member, on inputs with a leading dimension of members, but for those whose places are `shared`."""
        dims = tuple(None if part is None or place in shared else 0 for place, part in enumerate(inputs))
        found: Tensor = vmap(lambda own, *given: self.call(own, method, *given), in_dims=(0, *dims))(weights or self.weights, *inputs)
        return found

    def call(self, weights: Weights, method: str, *inputs: Any) -> Any:
        """A method of one network with some weights."""
        return functional_call(self._call, {f"denoiser.{name}": weight for name, weight in weights.items()}, (method, *inputs))

    def state(self, member: int) -> dict[str, Tensor]:
        """What `state_dict` of one member alone would be."""
        stacked = self.weights.keys()
        return {name: value[member] if name in stacked else value for name, value in self.denoiser.state_dict().items()}

    @torch.no_grad()
    def load(self, member: int, tensors: Weights) -> None:
        for name, weight in self.weights.items():
            weight[member].copy_(tensors[name])


def stack_weights(denoisers: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first network whose parameters hold those of all, (M, ...). Raises CatalogError where shapes differ."""
    shapes = [{name: weight.shape for name, weight in denoiser.named_parameters()} for denoiser in denoisers]
    for number, found in enumerate(shapes):
        if found != shapes[0]:
            problem = ck.Problem(f"network {number}", "weights of other names or shapes", "those of network 0", "stack one architecture")
            raise ck.CatalogError(problem)
    stacked = copy.deepcopy(denoisers[0])
    parts = [dict(denoiser.named_parameters()) for denoiser in denoisers]
    for place, module in stacked.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            full = f"{place}.{name}" if place else name
            joined = torch.stack([part[full].detach() for part in parts])
            setattr(module, name, nn.Parameter(joined, requires_grad=weight.requires_grad))
    return stacked


def refuse_unbatched(stack: Stack, null: Condition, shape: tuple[int, int, int], kind: str) -> None:
    """A network whose code cannot be batched over weights is refused by its kind, with torch's reason. Raises CatalogError."""
    device = next(iter(stack.weights.values())).device
    sample, time = torch.zeros(1, *shape, device=device), torch.zeros(1, dtype=torch.int64, device=device)

    def trial(weights: Weights) -> Tensor:
        found: Tensor = stack.call(weights, "__call__", sample, time, stack.call(weights, "embed", null), null.mask)
        return found

    try:
        vmap(trial)(stack.weights).sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        found = f"a {kind} that torch cannot batch over weights: {str(error).splitlines()[0]:.80}"
        raise ck.CatalogError(ck.Problem("model.kind", found, "mlp, dit, or another one without dropout", "train it alone")) from None
    finally:
        stack.denoiser.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Group:
    """Members beside each other in a stack that differ in data and first weights alone: they share every draw."""

    config: RunConfig
    first: int
    count: int


@dataclass(frozen=True)
class Reading:
    """What all members of one seed are given of a batch."""

    clean: Tensor  # (B, C, H, W)
    numbers: Tensor  # (B,) int64
    rows: Tensor  # (B,) int64


def stack_losses(
    stack: Stack, groups: Sequence[Group], readings: Mapping[int, Reading], told: Sequence[Condition], null: Condition
) -> tuple[Tensor, dict[str, Tensor]]:
    """(M, B) losses, and (M,) each of what to log, from a reading for each seed and a condition of B rows for each member.

    What TrainingStep does for one network, in the same order and by the same functions. Noise and times are drawn once for each seed,
    what differs by perturbation or dropout once for each group.
    """
    drawn = {seed: _draw_noise(groups, seed, reading) for seed, reading in readings.items()}
    split = {name: weight.split([group.count for group in groups]) for name, weight in stack.weights.items()}
    states, masks, noisy, clean, measures = [], [], [], [], []
    for place, group in enumerate(groups):
        config, reading = group.config, readings[group.config.seed]
        weights = {name: parts[place] for name, parts in split.items()}
        some = told[group.first : group.first + group.count]
        seen, mask, said = _embed_group(stack, weights, group, reading, some, null)
        states.append(seen)
        masks.append(mask)
        measures.append(said)
        noise, times = drawn[config.seed]
        applied = perturb_noise(config.perturbation, noise, images=reading.numbers, seed=config.seed)
        made = add_noise(config.objective, reading.clean, noise, times, applied=applied)
        noisy += [made] * group.count
        clean += [reading.clean] * group.count
    # (M, B, ...): one pass of all members.
    sample, timestep = torch.stack([part.sample for part in noisy]), torch.stack([part.timestep for part in noisy])
    found_masks = [mask for mask in masks if mask is not None]
    prediction = stack.run("__call__", sample, timestep, torch.cat(states), torch.cat(found_masks) if found_masks else None)
    # Losses are of single images, so that members are rows like any other: (M * B, ...).
    target, weight = torch.cat([part.target for part in noisy]), torch.cat([part.weight for part in noisy])
    flat = Noisy(sample.flatten(0, 1), timestep.flatten(), target, weight)
    loss, error = denoising_loss(groups[0].config.objective, prediction.flatten(0, 1), flat, torch.cat(clean))
    shape = (stack.members, -1)
    means = {name: torch.cat([said[name] for said in measures]) for name in measures[0]}
    return loss.view(shape), {"mse": error.view(shape).mean(1), **means}


def _draw_noise(groups: Sequence[Group], seed: int, reading: Reading) -> tuple[Tensor, Tensor]:
    """The noise (B, C, H, W) and the times (B,) of one seed."""
    noise = draw_normal(seed, "noise", reading.numbers, tuple(reading.clean.shape[1:]))
    return noise, draw_times(groups[0].config.objective, reading.numbers, seed)


class _Member:
    """One network with some weights, as embedding asks for it."""

    def __init__(self, stack: Stack, weights: Weights) -> None:
        self._stack, self._weights = stack, weights
        self.classes: int | None = stack.denoiser.classes  # type: ignore[assignment]  # a Denoiser's, which is an int or None

    def embed(self, condition: Condition) -> Tensor:
        found: Tensor = self._stack.call(self._weights, "embed", condition)
        return found


def _embed_group(
    stack: Stack, weights: Weights, group: Group, reading: Reading, told: Sequence[Condition], null: Condition
) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """States (G, B, d) or (G, B, T, d), their masks (G, B, T) or None, and (G,) each of what to log, for the G members of a group."""
    config = group.config
    how: dict[str, Any] = {"images": reading.numbers, "rows": reading.rows, "rate": config.condition.dropout, "seed": config.seed}
    # A class or a text, with or without a mask: the parts that there are, (G, B, ...) each.
    columns = {name: [getattr(one, name) for one in told] for name in ("ids", "states", "mask")}
    parts = {name: torch.stack(column) for name, column in columns.items() if column[0] is not None}

    def embed(own: Weights, given: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        seen = embed_conditions(_Member(stack, own), Condition(**given), null, config.perturbation, **how)
        return seen.states, seen.dropped if seen.mask is None else seen.mask, seen.measures

    # What does not depend on a member, every draw above all, has no batch dimension here: it is computed once.
    call: Callable[..., tuple[Tensor, Tensor, dict[str, Tensor]]] = vmap(embed)
    states, mask, measures = call(weights, parts)
    return states, mask if "mask" in parts else None, measures


@torch.no_grad()
def clip_members(weights: Weights, clip: float) -> Tensor:
    """(M,): the norm of each member's gradient before it is clipped, by its own norm; 0 clips nothing."""
    gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
    # (P, M) norms of each of P parameters, then the norm of these.
    norms = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part.flatten(1), dim=1) for part in gradients]), dim=0)
    if not clip:
        return norms
    factor = (clip / (norms + _CLIP_EPSILON)).clamp(max=1.0)
    if factor.device.type == "cpu" and bool((factor == 1).all()):
        return norms  # a product with 1 would change no bit, and read and write every gradient
    for part in gradients:
        part.mul_(factor.view(-1, *[1] * (part.ndim - 1)))
    return norms


class StackedAdamW:
    """AdamW over stacked weights, in one kernel for the members of each rate: moments (M, ...), and for each rate its own steps."""

    def __init__(self, weights: Mapping[str, nn.Parameter], how: Sequence[OptimiserConfig]) -> None:
        self._weights, self._how = weights, how
        self._moments = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in weights.items()}
        # Members of one rate lie beside each other: (first, end) of each run of equal rates.
        edges = [place for place in range(1, len(how)) if how[place].rate != how[place - 1].rate]
        self._spans = list(zip([0, *edges], [*edges, len(how)], strict=True))
        self._steps = [{name: torch.zeros((), device=weight.device) for name, weight in weights.items()} for _ in self._spans]

    def update(self, part: float) -> None:
        """One step at `part` of each member's rate, with the gradients as they are, which are given up."""
        names = [name for name, weight in self._weights.items() if weight.grad is not None]
        for (first, end), steps in zip(self._spans, self._steps, strict=True):
            how, own = self._how[first], slice(first, end)
            with torch.no_grad():
                adamw(
                    [self._weights[name][own] for name in names],
                    [self._weights[name].grad[own] for name in names],  # type: ignore[index]  # there is one: see names
                    [self._moments[name][0][own] for name in names],
                    [self._moments[name][1][own] for name in names],
                    [],
                    [steps[name] for name in names],
                    fused=True,
                    amsgrad=False,
                    beta1=how.betas[0],
                    beta2=how.betas[1],
                    lr=how.rate * part,
                    weight_decay=how.decay,
                    eps=how.epsilon,
                    maximize=False,
                )
        for weight in self._weights.values():
            weight.grad = None

    def tensors(self, member: int) -> dict[str, Tensor]:
        """One member's state as `checkpoint.optimiser_tensors` names it."""
        steps = self._steps_of(member)
        found = {}
        for name, (mean, square) in self._moments.items():
            if steps[name] > 0:
                found |= {f"{name}:step": steps[name], f"{name}:exp_avg": mean[member], f"{name}:exp_avg_sq": square[member]}
        return found

    def load(self, member: int, tensors: Weights) -> None:
        steps = self._steps_of(member)
        for key, value in tensors.items():
            name, _, field = key.rpartition(":")
            mean, square = self._moments[name]
            {"step": steps[name], "exp_avg": mean[member], "exp_avg_sq": square[member]}[field].copy_(value)

    def _steps_of(self, member: int) -> dict[str, Tensor]:
        return self._steps[next(place for place, (_, end) in enumerate(self._spans) if member < end)]
