"""An Arrow file of no bytes."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.arrow", end=b"")
    return Refused("make --source src --swap 0.5", "src/a.arrow", "it cannot be read", "fetch or write the shard anew")
