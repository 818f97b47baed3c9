"""Groups that name a class that the source does not have."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.json", b"[[0, 99]]", end=b"")
    return Refused("make --source src --flip 0.5 --mode within --groups odd.json", "--flip", "groups name class 99", "mend", key="chain.0")
