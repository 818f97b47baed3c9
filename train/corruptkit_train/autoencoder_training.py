"""A small autoencoder trained on the images of a data set, so that latents need no download.

A deterministic autoencoder with noise of one size on its latents, and a penalty on their square: a variational one (Kingma & Welling
2014) whose posterior has that deviation everywhere. Noise makes near latents decode to near images, which a diffusion model needs.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

import corruptkit as ck
from corruptkit.files import write_atomic
from corruptkit_train.averages import Average, copy_weights
from corruptkit_train.checkpoint import drop_checkpoints, optimiser_tensors, save_checkpoint
from corruptkit_train.config import AverageConfig, OptimiserConfig, Part, Positive, Stated, parse_stated, presets, read_table
from corruptkit_train.draws import draw_normal
from corruptkit_train.grids import tile_images
from corruptkit_train.images import ImageConfig, Order, Pictures
from corruptkit_train.loop import (
    Sums,
    catch_signals,
    clip_gradient,
    crossed,
    explain_memory,
    load_weights,
    make_optimiser,
    refuse_nan,
    resume,
    set_rate,
    trim_log,
    write_log,
)
from corruptkit_train.pipelines.pipeline import round_pixels
from corruptkit_train.pipelines.saving import publish_folder
from corruptkit_train.run import compare_folder, hold_folder, refuse_nesting, watch_rows, write_record
from corruptkit_train.sampling import find_device

_MEASURED = 4096  # training images whose latents say how they are scaled
_CHUNK = 64  # images of a forward pass that learns nothing
_ACROSS = 16  # images of a grid's row


class NetworkConfig(Part):
    """diffusers' AutoencoderTiny: each stage but the first halves the edges in the encoder, and the decoder has them in turn."""

    width: Positive = 32  # channels of every layer
    blocks: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, max_length=6)] = (0, 1, 4)  # of each stage, from pixels
    latents: Positive = 4  # channels of the latents

    @property
    def factor(self) -> int:
        """Pixels of an image's edge for one of its latents'."""
        return 1 << (len(self.blocks) - 1)


class LossConfig(Part):
    """Absolute and squared differences of pixels, and those of their slopes along both axes, which keep edges, at several scales."""

    scales: Annotated[int, Field(ge=1, le=6)] = 3  # the images as they are, then halved each time
    edges: Annotated[float, Field(ge=0)] = 1.0  # weight of slopes
    squares: Annotated[float, Field(ge=0)] = 2.0  # weight of squared differences: absolute ones alone learn colours late
    noise: Annotated[float, Field(ge=0)] = 0.1  # deviation of what is added to latents in training
    prior: Annotated[float, Field(ge=0)] = 0.005  # weight of the mean square of latents, which holds their size against the noise


class AutoencoderMachine(Part):
    """How the training is carried out; it changes no result."""

    hold: Annotated[int, Field(ge=0)] = 1 << 30  # bytes of decoded images that may be held in memory (centre crops only)
    report: Positive = 50  # steps between two lines of the log
    sample: Annotated[int, Field(ge=0)] = 0  # images between two grids; 0: one at the end
    save: Annotated[int, Field(ge=0)] = 0  # images between two checkpoints; 0: one at the end
    keep: Positive = 2  # newest checkpoints that stay


class AutoencoderRun(Stated):
    """The training of an autoencoder: everything but the data, which `--data` names."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    images: Positive  # to train on in all; a run may go on to more
    hold_out: Annotated[int, Field(ge=2)] = 20  # every so many rows, one is not trained on but measured
    data: ImageConfig
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    average: AverageConfig = AverageConfig()
    machine: AutoencoderMachine = AutoencoderMachine()

    @model_validator(mode="after")
    def _agree(self) -> AutoencoderRun:
        if self.images % self.optimiser.batch:
            raise ValueError(f"found images = {self.images}, expected a multiple of optimiser.batch = {self.optimiser.batch}")
        multiple = max(self.network.factor, 1 << (self.loss.scales - 1))
        if self.data.size % multiple:
            found = f"found data.size = {self.data.size}"
            raise ValueError(f"{found}, expected a multiple of {multiple}, as network.blocks and loss.scales divide it")
        if self.data.channels != 3:
            raise ValueError(f"found data.channels = {self.data.channels}, expected 3: autoencoders are of colours")
        return self


@dataclass(frozen=True)
class Split:
    """Images to train on, by row, and those that are kept for measuring, uint8 (N, 3, H, W)."""

    pictures: Pictures
    rows: Tensor  # (N,) int64, of those to train on
    held_out: Tensor


def load_autoencoder_run(path: str, changes: list[str]) -> AutoencoderRun:
    """Read a training from TOML, from a run.json or a preset by its name; `changes` are `a.b=value`. Raises CatalogError."""
    return parse_stated(AutoencoderRun, *read_table(path, changes, presets("autoencoder")))


def train_autoencoder(
    config: AutoencoderRun, data: str | Path, out: Path, *, source: str | Path | None = None, images: int | None = None
) -> dict[str, Any]:
    """Train an autoencoder, or go on training it, on the images of the data set at `data`; everything lands in `out`. Gives its record.

    Raises what `train_run` raises, for the same reasons, and CatalogError where there are several processes.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        found = f"found {os.environ['WORLD_SIZE']} processes"
        raise ck.CatalogError(ck.Problem("WORLD_SIZE", found, "one: an autoencoder is trained by one", "start it without a launcher"))
    refuse_nesting(Path(data), out)
    dataset, known = open_images(data, source)
    refuse_nesting(dataset.root, out)  # an overlay's source
    with hold_folder(out, first=True):
        split = split_rows(config, dataset)
        known |= {"held_out": len(split.held_out), "held_out_sha256": sha256(split.held_out.numpy().tobytes()).hexdigest()}
        record = compare_folder(config, known, out, images or config.images)
        write_record(config, record, out)
        network = make_network(config)
        average = train_network(config, network, split, out, record, images or config.images)
        measured = save_autoencoder(config, place_average(config, average), split, out / "autoencoder", record)
    return record | measured | {"images": images or config.images, "path": str(out)}


def open_images(data: str | Path, source: str | Path | None) -> tuple[ck.Dataset, dict[str, Any]]:
    """A data set, whatever its conditions are, and what is recorded of it; a variant is verified first. Raises IntegrityError."""
    if (Path(data) / ".corruptkit" / "manifest.json").exists():
        found = ck.verify(data, source=source)
        if found.problems:
            raise ck.IntegrityError(*found.problems)
    elif source is not None:
        raise ck.CatalogError(ck.Problem("--source", f"{data} is no variant", "the source of an overlay", "leave it out"))
    dataset = ck.open_dataset(data, source=source)
    known = dataset.manifest
    stated = {"variant_id": known.variant_id if known else "", "fingerprint": dataset.index().meta.fingerprint}
    return dataset, {**stated, "rows": len(dataset), "split": dataset.split}


def split_rows(config: AutoencoderRun, dataset: ck.Dataset) -> Split:
    """Every n-th row, from the first, is kept for measuring: as it is, centred and not flipped."""
    held_out = torch.arange(len(dataset)) % config.hold_out == 0
    if held_out.all():
        found = f"{len(dataset)} rows, of which {int(held_out.sum())} is held out"
        raise ck.DatasetError(ck.Problem(str(dataset.path), found, "rows to train on", "name a larger data set"))
    plain = Pictures(dataset, config.data.model_copy(update={"crop": "center", "flip": False}))
    chosen = held_out.nonzero().flatten()
    measured, rows = plain.load(chosen, chosen, config.seed)
    measured = measured[rows % config.hold_out == 0]  # in the place of a bad image there may be one that is trained on
    if not len(measured):
        found = f"none of {len(chosen)} images that are held out can be decoded"
        raise ck.DatasetError(ck.Problem(str(dataset.path), found, "images to measure on", "mend them, or change hold_out"))
    keep = len(dataset) * config.data.channels * config.data.size**2 <= config.machine.hold
    return Split(Pictures(dataset, config.data, keep=keep, watch=watch_rows("decode")), (~held_out).nonzero().flatten(), measured)


def make_network(config: AutoencoderRun) -> Any:
    """The network as its seed begins it; nothing else of the process notices the draws."""
    from diffusers import AutoencoderTiny

    blocks, width = config.network.blocks, config.network.width
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return AutoencoderTiny(
            encoder_block_out_channels=(width,) * len(blocks),
            decoder_block_out_channels=(width,) * len(blocks),
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks[::-1],
            latent_channels=config.network.latents,
        )


def train_network(  # noqa: PLR0915 - one loop, read from top to bottom
    config: AutoencoderRun, network: Any, split: Split, out: Path, record: Mapping[str, Any], images: int
) -> Average:
    """Train until `images` have been seen, from the newest checkpoint on; what happens to image n is a function of (config, n) alone."""
    machine, batch, device = config.machine, config.optimiser.batch, find_device()
    network.to(device)
    optimiser = make_optimiser(config.optimiser, network)
    average = Average(network, config.average.decay, warmup=config.average.warmup)
    order, sums = Order(config.seed, len(split.rows)), Sums()
    seen = resume(load_weights(out, network), network, optimiser, average)
    trim_log(out / "log.jsonl", seen)
    bar = tqdm(total=images, initial=seen, unit="img", disable=None, smoothing=0.05)
    with catch_signals() as stopped, _explain_batch(batch), bar:
        while seen < images:
            set_rate(optimiser, config.optimiser, seen)
            numbers = torch.arange(seen, seen + batch)
            pixels, found = split.pictures.load(split.rows[order.rows_at(numbers)], numbers, config.seed)
            own = found % config.hold_out != 0  # and the other way round
            losses = measure_losses(config, network, pixels[own].to(device), numbers[own].to(device))
            losses["loss"].backward()  # type: ignore[no-untyped-call] # published without types
            norm = clip_gradient(network, config.optimiser.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            average.update(network)
            sums.add({**{name: loss.detach() for name, loss in losses.items()}, "gradient_norm": norm})
            seen += batch
            bar.update(batch)

            # Report, draw, save: each when its time has come, and at the end.
            leaving = stopped()
            saving = seen >= images or leaving or crossed(seen, batch, machine.save)
            if saving or seen // batch % machine.report == 0:
                line = {"images": seen, **sums.peek(), "rate": optimiser.param_groups[0]["lr"]}
                refuse_nan(line, out, seen)
                write_log(out / "log.jsonl", line)
                bar.set_postfix(loss=f"{line['loss']:.4f}")
                sums = Sums()
            if (seen >= images and not leaving) or crossed(seen, batch, machine.sample):
                draw_grid(place_average(config, average), split.held_out, out / "grids" / f"{seen:012d}.png")
            if saving:
                parts = {"weights": network.state_dict(), "average": average.state(), "optimiser": optimiser_tensors(optimiser, network)}
                save_checkpoint(out, parts, {**record, "images": seen, "updates": average.updates})
                drop_checkpoints(out, machine.keep, 0)
            if leaving and seen < images:
                raise KeyboardInterrupt
    return average


def measure_losses(config: AutoencoderRun, network: Any, pixels: Tensor, numbers: Tensor) -> dict[str, Tensor]:
    """The loss of uint8 images (B, 3, H, W), and its parts."""
    clean = pixels.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
    latents = network.encoder(clean)  # (B, C, h, w)
    noise = draw_normal(config.seed, "noise", numbers, tuple(latents.shape[1:]))
    apart = network.decoder(latents + config.loss.noise * noise) - clean
    parts = {**compare_scales(apart, config.loss.scales), "size": latents.square().mean()}
    weights = {"pixel": 1.0, "slope": config.loss.edges, "square": config.loss.squares, "size": config.loss.prior}
    return {"loss": torch.stack([weights[name] * part for name, part in parts.items()]).sum(), **parts}


def compare_scales(apart: Tensor, scales: int) -> dict[str, Tensor]:
    """Mean absolute values of a difference of images (B, C, H, W), and of its slopes, and its mean square, averaged over scales.

    Means over 2 x 2 pixels and slopes are linear, so that those of a difference are the differences of those.
    """
    sums = dict.fromkeys(("pixel", "slope", "square"), apart.new_zeros(()))
    for scale in range(scales):
        if scale:
            apart = avg_pool2d(apart, 2)
        sums["pixel"] = sums["pixel"] + apart.abs().mean()
        sums["slope"] = sums["slope"] + apart.diff(dim=-1).abs().mean() + apart.diff(dim=-2).abs().mean()
        sums["square"] = sums["square"] + apart.square().mean()
    return {name: total / scales for name, total in sums.items()}


def place_average(config: AutoencoderRun, average: Average) -> Any:
    """Another network, with the averaged weights, on their device."""
    network = make_network(config).to(find_device()).eval().requires_grad_(requires_grad=False)
    copy_weights(average.state(), average.state(), network)
    return network


def save_autoencoder(config: AutoencoderRun, network: Any, split: Split, folder: Path, record: Mapping[str, Any]) -> dict[str, float]:
    """Write the folder that `AutoencoderTiny.from_pretrained` opens, its scale measured on data; gives what was measured.

    (latents - shift) x scale have mean 0 and variance 1 over training images, all channels together.
    """
    rows = split.rows[:_MEASURED]
    pixels, _ = split.pictures.load(rows, rows, config.seed)
    latents = _run_chunks(network.encoder, pixels).double()
    shift, scale = float(latents.mean()), 1 / float(latents.std())
    made = reconstruct(network, split.held_out)
    network.register_to_config(scaling_factor=scale, shift_factor=shift)
    with publish_folder(folder, replace=True) as partial:
        network.save_pretrained(partial)
        (partial / "training.json").write_text(json.dumps({name: record[name] for name in ("run", "data")}, indent=2) + "\n")
    return {"psnr": measure_psnr(made, split.held_out), "scale": scale, "shift": shift}


def reconstruct(network: Any, pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W): images through encoder and decoder."""
    return round_pixels(_run_chunks(lambda part: network.decoder(network.encoder(part)), pixels))


def measure_psnr(made: Tensor, pixels: Tensor) -> float:
    """The mean over images of their peak signal-to-noise ratio in dB: 20 log10(255 / root of the mean squared error)."""
    error = (made.double() - pixels.double()).square().flatten(1).mean(dim=1).clamp_min(1e-10)
    return float((10 * torch.log10(255**2 / error)).mean())


def draw_grid(network: Any, pixels: Tensor, file: Path) -> None:
    """Rows of held-out images, each with its reconstructions beneath."""
    chosen = pixels[torch.arange(min(len(pixels), 4 * _ACROSS)) * len(pixels) // min(len(pixels), 4 * _ACROSS)]
    made = reconstruct(network, chosen)
    pairs = [half for start in range(0, len(chosen), _ACROSS) for half in _fill_row(chosen, made, start)]
    file.parent.mkdir(exist_ok=True)
    held = io.BytesIO()
    tile_images(torch.cat(pairs), _ACROSS).save(held, "PNG")
    write_atomic(file, held.getvalue(), file.parent)


def _fill_row(chosen: Tensor, made: Tensor, start: int) -> Iterator[Tensor]:
    """A row of images and one of reconstructions; a short one ends in white."""
    for images in (chosen, made):
        row = images[start : start + _ACROSS]
        yield torch.cat([row, row.new_full((_ACROSS - len(row), *row.shape[1:]), 255)])


def _run_chunks(forward: Any, pixels: Tensor) -> Tensor:
    """float32 on the CPU: a forward pass over uint8 images, in [-1, 1], some at a time."""
    device = find_device()
    with torch.no_grad():
        return torch.cat([forward(part.to(device).float().div_(127.5).sub_(1)).cpu() for part in pixels.split(_CHUNK)])  # type: ignore[no-untyped-call]


@contextmanager
def _explain_batch(batch: int) -> Iterator[None]:
    problem = ck.Problem("optimiser.batch", f"out of memory with {batch} images in a step", do="lower it, or network.width")
    with explain_memory(problem):
        yield
