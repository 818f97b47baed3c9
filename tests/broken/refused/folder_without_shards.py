"""A folder of images, in which no shard lies."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, Refused, pack


def build(folder: Path) -> Refused:
    pack(folder / "src" / "photo.jpg", JPG, end=b"")
    return Refused("make --source src --swap 0.5", "src", "no .tar file", "mend the path")
