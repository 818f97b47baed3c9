"""Saved models that open with diffusers alone."""

from __future__ import annotations

from corruptkit_train.pipelines.pipeline import ConditionalPipeline, round_pixels
from corruptkit_train.pipelines.released import Released, open_released
from corruptkit_train.pipelines.saving import Settings, export_stock, make_pipeline, save_pipeline

__all__ = [
    "ConditionalPipeline",
    "Released",
    "Settings",
    "export_stock",
    "make_pipeline",
    "open_released",
    "round_pixels",
    "save_pipeline",
]
