"""Small sources of real PNGs, and runs on them that take a second."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from corruptkit_train.config import RunConfig, parse_config
from tests.corruptkit.shards import Row, write_shards

SIDE = 8


def picture(number: int, side: int = SIDE) -> bytes:
    """A square of a colour on a ground of another: no two numbers below 64 are alike."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:] = (number % 4 * 80, number // 4 % 4 * 80, number // 16 * 80)
    top, left = number % 3 * 2, number // 3 % 3 * 2
    pixels[top : top + 3, left : left + 3] = 255 - pixels[0, 0]
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def write_pictures(folder: Path, count: int = 32, classes: int = 4) -> Path:
    """`count` pictures with labels and captions, in two shards."""
    rows = [Row(f"{i:05d}", i % classes, f"picture {i}", picture(i)) for i in range(count)]
    write_shards(folder, rows, members=("png", "txt", "cls"))
    return folder


def small_run(**changes: Any) -> RunConfig:
    """A DiT of two layers on 8 x 8 pixels, batches of 16; `changes` are whole tables or fields."""
    table: dict[str, Any] = {
        "images": 128,
        "data": {"size": SIDE},
        "condition": {"kind": "class"},
        "model": {"kind": "dit", "depth": 2, "width": 32, "heads": 2, "patch": 4},
        "optimiser": {"rate": 1e-3, "batch": 16},
        "sampler": {"steps": 2},
        "machine": {"report": 2},
    }
    for name, value in changes.items():
        table[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
    return parse_config(table, "test")


def latent_run(autoencoder: Path, **changes: Any) -> RunConfig:
    """The same on latents of 32 x 32 pixels."""
    table = {**changes, "data": {"size": 32, **changes.get("data", {})}, "model": {"patch": 1, **changes.get("model", {})}}
    return small_run(**{**table, "latents": {"autoencoder": str(autoencoder), **changes.get("latents", {})}})
