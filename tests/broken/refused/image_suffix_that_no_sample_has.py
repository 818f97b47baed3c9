"""A suffix of images that no sample has."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "0.tar")
    return Refused("make --source src --swap 1 --image-column nope", "src", "no sample with a member .nope", "name another --image-column")
