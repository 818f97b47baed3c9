"""Two images of one class whose paths differ in their suffix alone."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images


def build(folder: Path) -> Refused:
    images(folder / "src", "x/a.jpg", "x/a.png", "y/a.jpg")
    return Refused("make --source src --flip 0.5", "src/x", "duplicate key", "choose another --key rule", key="x/a")
