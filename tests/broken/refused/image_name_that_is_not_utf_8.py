"""A folder of images, one of which has a name in Latin-1."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images


def build(folder: Path) -> Refused:
    images(folder / "src", "x/a.jpg", "y/\udce9t\udce9.jpg")
    return Refused("make --source src --flip 0.5", "src/y", "a lone surrogate", "rename the sample", key="y/\udce9t\udce9")
