"""Many networks of one architecture as one: weights have a leading dimension of M members, and one batched pass serves all of them.

`torch.func.vmap` over the networks' own code makes a batched product (bmm) of each linear layer, and a grouped one of each convolution,
so that what a network computes is written once. Members are mathematically apart: the loss is a sum over members, whose gradient
with respect to the weights of one is that of its own loss.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import scaled_dot_product_attention
from torch.optim.adamw import adamw
from torch.overrides import TorchFunctionMode

import corruptkit as ck
from corruptkit_train.conditions import Condition, drop_conditions, null_rows
from corruptkit_train.config import OptimiserConfig
from corruptkit_train.draws import draw_normal
from corruptkit_train.objectives import Flow, Noise, Velocity, add_noise, denoising_loss, draw_times
from corruptkit_train.perturbation import Perturbation, measure_delta, perturb, perturb_noise

_CLIP_EPSILON = 1e-6  # beside the norm, as torch.nn.utils.clip_grad_norm_ has it
Weights = Mapping[str, Tensor]


class _Call(nn.Module):
    """A network whose methods are called with other weights in the place of its own."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, method: str, *inputs: Any) -> Any:
        return getattr(self.denoiser, method)(*inputs)


class _Attend(torch.autograd.Function):
    """Attention that, batched over members, is one call on (M * B, heads, N, d): it has no weights, so that members are rows to it."""

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: gradients are those of the call in `vmap`."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None) -> Any:
        def join(part: Tensor, dim: int | None) -> Tensor:
            return (part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)).flatten(0, 1)

        query, key, value = (join(part, dim) for part, dim in zip((query, key, value), in_dims, strict=False))
        seen = None if mask is None else join(mask, in_dims[3])
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
        return mixed.view(info.batch_size, -1, *mixed.shape[1:]), 0


class _JoinedAttention(TorchFunctionMode):
    """Within it attention is `_Attend`: for the kernel that a CPU has, torch would else call it member by member, and warn."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plain = {name: value for name, value in kwargs.items() if not (name in ("dropout_p", "is_causal") and not value)}
        if func is scaled_dot_product_attention and len(args) == 3 and plain.keys() <= {"attn_mask", "scale"}:
            return _Attend.apply(*args, plain.get("attn_mask"), plain.get("scale"))  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


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
        batched = vmap(lambda own, *given: self.call(own, method, *given), in_dims=(0, *dims))
        with _JoinedAttention():
            found: Tensor = batched(weights or self.weights, *inputs)
        return found

    def call(self, weights: Weights, method: str, *inputs: Any) -> Any:
        """A method of one network with some weights."""
        return functional_call(self._call, {f"denoiser.{name}": weight for name, weight in weights.items()}, (method, *inputs))

    def embed(self, condition: Condition) -> Tensor:
        """(M, B, ...): states of a condition of M * B rows, those of a member beside each other."""
        parts = {name: getattr(condition, name) for name in ("ids", "states", "mask", "words")}
        given = {name: split_rows(part, self.members) for name, part in parts.items() if part is not None}
        found: Tensor = vmap(lambda own, some: self.call(own, "embed", Condition(**some)))(self.weights, given)
        return found

    def mean_class(self) -> Tensor:
        """(M, d) or (M, 1, d): the mean of each member's table of classes, without its null row."""
        one = next(iter(self.weights.values()))
        every = Condition(ids=torch.arange(self.denoiser.classes, device=one.device))  # type: ignore[call-overload]  # a Denoiser's: an int
        found: Tensor = vmap(lambda own: self.call(own, "embed", every).mean(dim=0))(self.weights)
        return found

    def state(self, member: int) -> dict[str, Tensor]:
        """What `state_dict` of one member alone would be."""
        stacked = self.weights.keys()
        return {name: value[member] if name in stacked else value for name, value in self.denoiser.state_dict().items()}

    @torch.no_grad()
    def load(self, member: int, tensors: Weights) -> None:
        for name, weight in self.weights.items():
            weight[member].copy_(tensors[name])


def split_rows(rows: Tensor, members: int) -> Tensor:
    """(M, B, ...) of (M * B, ...)."""
    return rows.reshape(members, -1, *rows.shape[1:])


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


def refuse_unbatched(stack: Stack, null: Condition, shape: tuple[int, int, int]) -> None:
    """A network whose code cannot be batched over weights is refused by its name, with torch's reason. Raises CatalogError."""
    one, count = next(iter(stack.weights.values())), (stack.members, 2)
    sample = torch.zeros(*count, *shape, device=one.device, dtype=one.dtype)
    time = torch.zeros(count, dtype=torch.int64, device=one.device)
    told = null.to(one.device).take(torch.zeros(stack.members * 2, dtype=torch.int64, device=one.device))
    mask = None if told.mask is None else split_rows(told.mask, stack.members)
    kind = type(stack.denoiser).__name__
    try:
        stack.run("__call__", sample, time, stack.embed(told), mask)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        found = f"a {kind} that torch cannot batch over weights ({str(error).splitlines()[0]:.80})"
        do = "train and sample it alone"
        raise ck.CatalogError(ck.Problem("ensemble", found, "an mlp, a dit, or another one without dropout", do)) from None


@dataclass(frozen=True)
class Span:
    """Members beside each other in a stack that have one list of perturbations."""

    perturbations: tuple[Perturbation, ...]
    first: int
    end: int


@dataclass(frozen=True)
class Cast:
    """What members of a stack are, as a pass needs it; what is not here they have in common."""

    objective: Noise | Velocity | Flow
    null: Condition
    seeds: Tensor  # (S,) int64: the distinct ones
    seed_of: Tensor  # (M,) int64: a member's place among them
    dropout: Tensor  # (M,) float32
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Reading:
    """What all members are given of a batch: images by seed, for members of one seed share them, and conditions by member."""

    clean: Tensor  # (S, B, C, H, W)
    numbers: Tensor  # (B,) int64: the same for all seeds, whose orders differ
    rows: Tensor  # (S, B) int64
    told: Condition  # of M * B rows, those of a member beside each other


def stack_losses(stack: Stack, cast: Cast, reading: Reading) -> tuple[Tensor, dict[str, Tensor]]:
    """(M, B) losses, and (M,) each of what to log.

    What TrainingStep does for one network, in the same order and by the same functions, for which a member's images are M * B rows like
    any other, each with a seed of its own. Only the network itself knows members.
    """
    shape = (stack.members, len(reading.numbers))
    count = len(cast.seeds)
    told, mask, measures = _embed_members(stack, cast, reading)
    # Noise (S * B, C, H, W) and times (S * B,) are drawn once for each seed, then given to its members.
    numbers, seeds = reading.numbers.repeat(count), cast.seeds.repeat_interleave(shape[1])
    noise = draw_normal(seeds, "noise", numbers, tuple(reading.clean.shape[2:]))
    noise, times, clean = (
        split_rows(part, count)[cast.seed_of].flatten(0, 1)
        for part in (noise, draw_times(cast.objective, numbers, seeds), reading.clean.flatten(0, 1))
    )
    noisy = add_noise(cast.objective, clean, noise, times, applied=_perturb_noise(cast, reading, noise))
    # (M, B, ...): one pass of all members.
    prediction = stack.run("__call__", split_rows(noisy.sample, stack.members), noisy.timestep.view(shape), told, mask)
    loss, error = denoising_loss(cast.objective, prediction.flatten(0, 1), noisy, clean)
    return loss.view(shape), {"mse": error.view(shape).mean(1), **measures}


def _embed_members(stack: Stack, cast: Cast, reading: Reading) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """States (M, B, d) or (M, B, T, d), masks (M, B, T) or None, and (M,) each of what to log: dropout, embedding, perturbation."""
    shape = (stack.members, len(reading.numbers))
    numbers, rows, seeds = _member_rows(cast, reading)
    condition, _ = drop_conditions(reading.told, cast.null, numbers, cast.dropout.repeat_interleave(shape[1]), seeds)
    clean = stack.embed(condition)
    none, flat = null_rows(condition, cast.null), clean.flatten(0, 1)
    parts = []
    for span in cast.spans:
        own = slice(span.first * shape[1], span.end * shape[1])
        table = None
        if any(part.kind == "smoothing" for part in span.perturbations):
            # Each row's own mean of classes, as a table of one class: (1, rows, d), whose mean it is.
            table = stack.mean_class()[span.first : span.end].repeat_interleave(shape[1], dim=0).unsqueeze(0)
        given = {"images": numbers[own], "rows": rows[own], "dropped": none[own], "seed": seeds[own], "table": table}
        parts.append(perturb(span.perturbations, flat[own], **given)[0])  # type: ignore[arg-type]
    states = torch.cat(parts).view(clean.shape)
    mask = None if condition.mask is None else split_rows(condition.mask, stack.members)
    return states, mask, vmap(measure_delta)(clean.detach(), states.detach())


def _member_rows(cast: Cast, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    """Image numbers, rows of the data set and seeds of all members' images, (M * B,) each."""
    count = len(reading.numbers)
    return (
        reading.numbers.repeat(len(cast.seed_of)),
        reading.rows[cast.seed_of].flatten(),
        cast.seeds[cast.seed_of].repeat_interleave(count),
    )


def _perturb_noise(cast: Cast, reading: Reading, noise: Tensor) -> Tensor:
    """The noise (M * B, C, H, W) that is added, where some members have input perturbation."""
    if not any(part.kind == "input" for span in cast.spans for part in span.perturbations):
        return noise
    numbers, _, seeds = _member_rows(cast, reading)
    spans = [(span, slice(span.first * len(reading.numbers), span.end * len(reading.numbers))) for span in cast.spans]
    return torch.cat([perturb_noise(span.perturbations, noise[own], images=numbers[own], seed=seeds[own]) for span, own in spans])


@torch.no_grad()
def clip_members(weights: Weights, clip: float) -> Tensor:
    """(M,): the norm of each member's gradient before it is clipped, by its own norm; 0 clips nothing."""
    gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
    # (P, M) norms of each of P parameters, then the norm of these.
    norms: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part.flatten(1), dim=1) for part in gradients]), dim=0)
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
        found: dict[str, Tensor] = {}
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
