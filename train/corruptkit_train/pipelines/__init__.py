"""Saved models that open with diffusers alone."""

from __future__ import annotations

from corruptkit_train.pipelines.pipeline import ConditionalPipeline, round_pixels
from corruptkit_train.pipelines.saving import Settings, export_stock, make_pipeline, save_pipeline

__all__ = ["ConditionalPipeline", "Settings", "export_stock", "make_pipeline", "round_pixels", "save_pipeline"]
