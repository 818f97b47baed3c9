"""A count of more decimal places than a weight may have."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.csv", b"true,predicted,count\n0,1,0.%d1e-999\n2,0,1\n" % 10**990, end=b"")
    return Refused("make --source src --flip 0.5 --mode matrix --matrix odd.csv", "--matrix", "characters", "mend")
