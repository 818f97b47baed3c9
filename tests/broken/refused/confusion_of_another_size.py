"""A confusion that names two classes of a source of three."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.csv", b"true,predicted,count\n0,1,5\n1,0,7\n", end=b"")
    return Refused("make --source src --flip 0.5 --mode matrix --matrix odd.csv", "--flip", "the matrix has 2 rows", "mend", key="chain.0")
