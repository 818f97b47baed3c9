"""A CSV of which one cell is longer than any number."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.csv", b"0,1,%s\n1,0,1\n1,1,0\n" % (b"1" * 200_000), end=b"")
    return Refused("make --source src --flip 0.5 --mode matrix --matrix odd.csv", "--matrix", "is not CSV", "mend the file")
