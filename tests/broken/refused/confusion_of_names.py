"""A confusion that names classes in place of their numbers."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.csv", b"true,predicted,count\n0,1,5\ncat,dog,7\n", end=b"")
    return Refused("make --source src --flip 0.5 --mode matrix --matrix odd.csv", "--matrix", "found 'cat,dog,7' in line 3", "mend")
