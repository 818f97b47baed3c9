"""A swap by embeddings that nobody states."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --swap 0.5 --mode far", "--swap", "needs embeddings", "state embeddings")
