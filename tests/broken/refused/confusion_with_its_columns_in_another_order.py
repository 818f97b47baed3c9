"""A confusion whose header names the predicted class first."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.csv", b"predicted,true,count\n0,1,5\n2,0,7\n", end=b"")
    words = "make --source src --flip 0.5 --mode matrix --matrix odd.csv"
    return Refused(words, "--matrix", "the header 'predicted,true,count'", "put the columns in this order")
