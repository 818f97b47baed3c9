"""A folder of images that lie in no class, whose labels shall flip."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    return Refused("make --source src --flip 0.5", "src", "no row has a label", "state --label-column", key="chain.0")
