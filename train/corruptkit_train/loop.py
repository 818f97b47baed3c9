"""The training loop: one function that reads from top to bottom.

Progress is counted in images. Nothing in it is a stream: what happens to image n is a function of (config, seed, n), so that a run
that was stopped and resumed is the run that was not, to the bit on a CPU.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import corruptkit as ck
from corruptkit_train.averages import Average
from corruptkit_train.checkpoint import Checkpoint, drop_checkpoints, find_checkpoints, load_optimiser, optimiser_tensors, save_checkpoint
from corruptkit_train.conditions import Conditions, conditions_of, copy_tensor
from corruptkit_train.config import OptimiserConfig, RunConfig
from corruptkit_train.images import Feed, Share, read_batches
from corruptkit_train.meter import Meter, count_flops, find_peak
from corruptkit_train.sharding import gather_tensors, whole_tensor
from corruptkit_train.step import TrainingStep, place_step, seed_dropout

_BROKEN = re.compile(r"gloo/transport|NCCL.*(abort|remote|timed? ?out)", re.DOTALL)  # of what torch raises as any RuntimeError
Grid = Callable[[dict[str, Tensor], int], object]  # draws a grid with averaged weights after so many images


@dataclass(frozen=True)
class Material:
    """What is trained on: images or their latents by row, and conditions by row."""

    pictures: Feed
    conditions: Conditions


@dataclass(frozen=True)
class Home:
    """A run's folder, and the record of the run that goes into every checkpoint."""

    out: Path
    record: Mapping[str, Any]


def train_model(  # noqa: PLR0915 - one loop, read from top to bottom
    config: RunConfig,
    denoiser: nn.Module,
    material: Material,
    home: Home,
    *,
    images: int,
    accelerator: Accelerator,
    draw_grid: Grid | None = None,
) -> dict[str, Tensor]:
    """Train until `images` have been seen, resuming from the newest checkpoint; gives the averaged weights.

    Raises IntegrityError for a loss that is no number, CatalogError where memory does not
    suffice, KeyboardInterrupt after SIGTERM or Ctrl-C (a checkpoint is written first).
    """
    machine, device, world = config.machine, accelerator.device, accelerator.num_processes
    batch, out, conditions, rows_in_all = config.optimiser.batch, home.out, material.conditions, len(material.pictures)
    share = Share(batch, machine.micro_batch or batch // world, accelerator.process_index, world)

    # --- parts -------------------------------------------------------------------------------------------------------
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = config.precision != "fp32"  # torch's default is True: convolutions would be of less than float32
    denoiser.to(device)
    null = conditions.null.to(device)
    flops = count_flops(denoiser, null, device)  # type: ignore[arg-type]
    peak, peak_from = find_peak(device, config.precision)

    # --- resume: weights before they are sharded, what follows them after --------------------------------------------
    saved = load_weights(out, denoiser)
    step = TrainingStep(denoiser, config, null).train()
    wrapped = place_step(step, machine, accelerator)
    optimiser = make_optimiser(config.optimiser, denoiser)
    average = Average(denoiser, config.average.decay, warmup=config.average.warmup)
    seen = resume(saved, denoiser, optimiser, average)
    if accelerator.is_main_process:
        trim_log(out / "log.jsonl", seen)
    turns = range(seen // batch * share.passes, images // batch * share.passes)
    batches = read_batches(material.pictures, share, turns, seed=config.seed, workers=machine.workers, pin=device.type == "cuda")
    meter = Meter(flops, peak * world)
    sums, agreement, main = Sums(), Agreement(accelerator), accelerator.is_main_process

    # --- steps -------------------------------------------------------------------------------------------------------
    bar = tqdm(total=images, initial=seen, unit="img", disable=None if accelerator.is_main_process else True, smoothing=0.05)
    with catch_signals() as stopped, explain_memory(small_memory(config, share)), explain_parting(world), bar:
        while seen < images:
            set_rate(optimiser, config.optimiser, seen)
            for turn in range(share.passes):
                # Read what is stored, and make clean samples of it on the device.
                started = time.perf_counter()
                got = next(batches)
                meter.wait(time.perf_counter() - started)
                numbers, rows = copy_tensor(got.numbers, device), copy_tensor(got.rows, device)
                clean = material.pictures.prepare(got.images.to(device, non_blocking=True), numbers, config.seed)
                condition = conditions_of(conditions, got.rows, got.numbers // rows_in_all).to(device)
                seed_dropout(config, got.numbers)

                # Accumulate: the sum over a step of all passes and processes is the mean over its batch.
                last = turn == share.passes - 1
                with wait_for_last(wrapped, last=last), autocast(config, device):
                    losses, measures = wrapped(clean, numbers, rows, condition)
                    # DistributedDataParallel divides by the number of processes what is here divided by a process's share.
                    loss = losses.sum() * (world / batch)
                loss.backward()
                sums.add({"loss": losses.detach().mean(), **measures})

            # Update: clip, step, average.
            norm = clip_gradient(denoiser, config.optimiser.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            average.update(denoiser)
            sums.add({"gradient_norm": norm})
            seen += batch
            meter.add(batch)
            bar.update(batch)

            # Report, sample, save: each when its time has come, and at the end.
            leaving = agreement.reached(told=stopped())
            ended = seen >= images or leaving
            if ended or seen // batch % machine.report == 0:
                line = {"images": seen, **sums.means(accelerator), **meter.report(), "rate": optimiser.param_groups[0]["lr"]}
                refuse_nan(line, out, seen)
                if accelerator.is_main_process:
                    write_log(out / "log.jsonl", {**line, "decay": average.next_decay(), "peak": peak_from})
                    accelerator.log(line, step=seen)
                    bar.set_postfix(loss=f"{line['loss']:.4f}", mfu=f"{line['mfu']:.0%}")
            if draw_grid is not None and not leaving and (ended or crossed(seen, batch, machine.sample)):
                show_average(draw_grid, average, seen, main=main)
            if ended or crossed(seen, batch, machine.save):
                refuse_nan(sums.peek(), out, seen)
                parts = whole_parts(denoiser, average, optimiser, keep=main)
                if main:
                    save_checkpoint(out, parts, {**home.record, "images": seen, "updates": average.updates})
                    drop_checkpoints(out, machine.keep, machine.keep_every)
            if leaving and seen < images:
                raise KeyboardInterrupt
    return average.state()


def make_optimiser(how: OptimiserConfig, denoiser: nn.Module) -> torch.optim.AdamW:
    """AdamW over all weights in one kernel."""
    return torch.optim.AdamW(denoiser.parameters(), lr=how.rate, betas=how.betas, eps=how.epsilon, weight_decay=how.decay, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, how: OptimiserConfig, seen: int) -> None:
    """The learning rate of the step that begins after `seen` images: it grows linearly over `warmup` images, then stays."""
    for group in optimiser.param_groups:
        group["lr"] = how.rate * rate_part(how, seen)


def rate_part(how: OptimiserConfig, seen: int) -> float:
    """What part of its rate the step that begins after `seen` images has."""
    return min(1.0, (seen + how.batch) / how.warmup) if how.warmup else 1.0


def clip_gradient(denoiser: nn.Module, clip: float) -> Tensor:
    """The gradient's norm, over all shards, before it is clipped; 0 clips nothing."""
    weights = [weight for weight in denoiser.parameters() if weight.grad is not None]
    norm = whole_tensor(nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None], foreach=True))
    if clip:
        nn.utils.clip_grads_with_norm_(weights, clip, norm, foreach=True)
    return norm.detach()


def show_average(draw_grid: Grid, average: Average, seen: int, *, main: bool) -> None:
    """A grid, drawn by the first process; of a sharded network all of them gather the weights."""
    weights = average.state(keep=main)
    if main:
        draw_grid(weights, seen)


def wait_for_last(wrapped: nn.Module, *, last: bool) -> Any:
    """Gradients are added up over processes after a step's last pass alone; shards are after each, for want of room for the whole."""
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and not last else nullcontext()


def load_weights(out: Path, denoiser: nn.Module) -> Checkpoint | None:
    """Put the newest checkpoint's weights into the network, if there is one."""
    checkpoints = find_checkpoints(out)
    if not checkpoints:
        return None
    denoiser.load_state_dict(checkpoints[-1].tensors("weights"))
    return checkpoints[-1]


def resume(saved: Checkpoint | None, denoiser: nn.Module, optimiser: torch.optim.Optimizer, average: Average) -> int:
    """Put back what a checkpoint has beside the weights; gives the images seen."""
    if saved is None:
        return 0
    average.load(saved.tensors("average"), int(saved.state["updates"]))
    load_optimiser(optimiser, denoiser, saved.tensors("optimiser"))
    return saved.images


def whole_parts(denoiser: nn.Module, average: Average, optimiser: torch.optim.Optimizer, *, keep: bool) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, whole; of a sharded network all processes must ask together, and the first one keeps it."""
    return {
        "weights": gather_tensors(denoiser.state_dict(), keep=keep),
        "average": average.state(keep=keep),
        "optimiser": gather_tensors(optimiser_tensors(optimiser, denoiser), keep=keep),
    }


class Sums:
    """Means of what the steps since the last report say, added up on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros_like(value, dtype=torch.float32), 0))
            self._sums[name] = (total + value.float(), count + 1)

    def peek(self) -> dict[str, float]:
        return {name: float(total) / count for name, (total, count) in self._sums.items()}

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all processes; counting begins anew."""
        found = {name: float(accelerator.reduce(total / count, "mean")) for name, (total, count) in self._sums.items()}
        self._sums = {}
        return found


def refuse_nan(line: dict[str, float], out: Path, seen: int) -> None:
    """A loss that is no number ends the run: what is saved is from before it."""
    for name in ("loss", "gradient_norm"):
        if name in line and not torch.isfinite(torch.tensor(line[name])):
            do = "resume from the last checkpoint with a smaller optimiser.rate, or clip the gradient"
            raise ck.IntegrityError(ck.Problem(str(out), f"the {name} is {line[name]} within the {seen:,} images seen", "a number", do))


def crossed(seen: int, batch: int, every: int) -> bool:
    """Whether a multiple of `every` images lies in the step that ends at `seen`."""
    return bool(every) and seen // every > (seen - batch) // every


def autocast(config: RunConfig, device: torch.device) -> Any:
    """bfloat16 for what gains by it, over float32 weights."""
    return torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()


class Agreement:
    """Whether any process was told to stop: all leave at the same step, or they would wait for each other for ever.

    With several processes the answer is that of the step before: a GPU's own would make the processor wait for the step.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._before: tuple[Tensor, torch.cuda.Event | None] | None = None

    def reached(self, *, told: bool) -> bool:
        if self._accelerator.num_processes == 1:
            return told
        before, self._before = self._before, self._ask(float(told))
        if before is None:
            return False
        if before[1] is not None:
            before[1].synchronize()
        return bool(before[0] > 0)

    def _ask(self, told: float) -> tuple[Tensor, torch.cuda.Event | None]:
        device = self._accelerator.device
        answer = self._accelerator.reduce(torch.full((), told, device=device), "sum")
        if device.type != "cuda":
            return answer, None
        here = torch.empty((), pin_memory=True).copy_(answer, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return here, copied


@contextmanager
def catch_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and the first Ctrl-C ask for a checkpoint; a second Ctrl-C ends at once."""
    told: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and told:
            raise KeyboardInterrupt
        told.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def small_memory(config: RunConfig, share: Share) -> ck.Problem:
    """What to say where a step does not fit."""
    found = f"out of memory with {share.micro_batch} images in a forward pass"
    do = f"lower machine.micro_batch (a divisor of {config.optimiser.batch}): the step stays the same, in more passes"
    return ck.Problem("machine.micro_batch", found, do=do)


@contextmanager
def explain_memory(problem: ck.Problem) -> Iterator[None]:
    """One line for a device or machine without enough memory: it names the knob."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ck.CatalogError(problem) from None


@contextmanager
def explain_parting(world: int) -> Iterator[None]:
    """One line for a process that is gone: the others of the run wait for it, until the connection breaks."""
    try:
        yield
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, torch.distributed.DistError) or _BROKEN.search(str(error))):
            raise
        do = "look for what it said, then start the same command again to resume"
        raise ck.IntegrityError(ck.Problem("WORLD_SIZE", f"one of {world} processes is gone", "all of them", do)) from None


def write_log(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as log:
        log.write(json.dumps(line) + "\n")


def trim_log(file: Path, seen: int) -> None:
    """Leave out lines beyond the checkpoint: those steps are made again."""
    if file.exists():
        kept = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n") and json.loads(line)["images"] <= seen]
        file.write_text("".join(kept))
