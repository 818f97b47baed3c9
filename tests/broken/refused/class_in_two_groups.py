"""A class that stands in two groups."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.json", b"[[0, 1], [1, 2]]", end=b"")
    return Refused("make --source src --flip 0.5 --mode within --groups odd.json", "--groups", "class 1 is in two groups", "mend")
