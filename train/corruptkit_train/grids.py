"""A grid of samples in the course of a run: the same conditions and starts each time, so that two grids show what training changed."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from corruptkit.files import write_atomic
from corruptkit_train.conditions import Condition, Conditions
from corruptkit_train.config import RunConfig
from corruptkit_train.images import Order
from corruptkit_train.pipelines.pipeline import round_pixels
from corruptkit_train.sampling import Trained, decode_samples, sample_latents

_SIDE = 8  # conditions down, starts across


def draw_grid(config: RunConfig, trained: Trained, conditions: Conditions, out: Path, seen: int) -> Path:
    """Sample and save `samples/IMAGES.png`: a row a condition, a column a start."""
    chosen = choose_conditions(config, conditions)
    count = len(chosen)
    which = torch.arange(count).repeat_interleave(_SIDE)
    numbers = torch.arange(_SIDE).repeat(count)
    condition = chosen.take(which)
    latents = sample_latents(trained, config.sampler, condition, numbers, seed=config.seed, scales=(config.sampler.scale,))
    file = out / "samples" / f"{seen:012d}.png"
    file.parent.mkdir(exist_ok=True)
    held = io.BytesIO()
    tile_images(round_pixels(decode_samples(trained, latents)[0]).cpu(), _SIDE).save(held, "PNG")
    write_atomic(file, held.getvalue(), file.parent)
    return file


def choose_conditions(config: RunConfig, conditions: Conditions) -> Condition:
    """Up to eight classes spread over all, or the captions of eight drawn rows."""
    if conditions.classes is not None:
        count = min(_SIDE, conditions.classes)
        return Condition(ids=torch.arange(count) * conditions.classes // count)
    rows = Order(config.seed, len(conditions)).rows_at(torch.arange(min(_SIDE, len(conditions))))
    return conditions.at(rows, 0)


def tile_images(images: Tensor, columns: int) -> Image.Image:
    """(N, C, H, W) uint8 as one picture, row by row, with a white line of two pixels between."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.full((channels, rows * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + 2), place % columns * (width + 2)
        sheet[:, top : top + height, left : left + width] = image
    pixels = sheet.permute(1, 2, 0).squeeze(-1).numpy()
    return Image.fromarray(pixels)
