"""A matrix with a word among its weights."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.csv", b"0,1,1\n1,0,many\n1,1,0\n", end=b"")
    return Refused("make --source src --flip 0.5 --mode matrix --matrix odd.csv", "--matrix", "found 'many'", "mend")
