"""A tiny model learns 32 images by heart, and the pipeline that is exported draws them: objective, network, loop and export agree."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from corruptkit_train.run import train_run
from tests.train.small import picture, small_run, write_pictures

COUNT = 32
SAMPLES = 64


def measure_distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N, M) root mean squares of differences, in grey levels."""
    return np.sqrt(((one[:, None].astype(float) - two[None]) ** 2).mean((2, 3, 4)))


def test_a_tiny_model_learns_32_images_by_heart(tmp_path: Path) -> None:
    """Half a minute on one thread. Every image is a class of its own, so that its loss can fall to nothing."""
    torch.set_num_threads(1)
    config = small_run(
        images=COUNT * 1600,
        condition={"dropout": 0},
        model={"depth": 3, "width": 64, "heads": 4, "patch": 2},
        objective={"kind": "v", "schedule": {"name": "squaredcos_cap_v2"}},
        optimiser={"rate": 3e-3, "batch": COUNT},
        average={"decay": 0.99},
        sampler={"steps": 20, "scale": 1.0},
        machine={"report": 10},
    )
    train_run(config, write_pictures(tmp_path / "src", COUNT, classes=COUNT), tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    # A line is the mean of ten steps; the last twenty are of 6,400 images, each with a time and a noise of its own.
    assert np.mean(losses[-20:]) <= 0.05 * losses[0]

    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    told = [number % COUNT for number in range(SAMPLES)]
    drawn = pipeline(class_labels=told, seeds=range(SAMPLES), output_type="uint8").images
    images = np.stack([np.asarray(Image.open(io.BytesIO(picture(number)))) for number in range(COUNT)])
    apart = measure_distances(images, images)[np.triu_indices(COUNT, 1)]
    nearest = measure_distances(drawn, images)
    # Nearer to an image than half of what two images are apart, be they the most alike; and to the one that was asked for.
    assert nearest.min(1).max() < apart.min() / 2
    assert nearest.argmin(1).tolist() == told
