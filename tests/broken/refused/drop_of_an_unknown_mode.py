"""A drop of something that is no condition."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --drop 0.5 --mode image", "--mode", "image", "caption, label")
