"""A member name in Latin-1."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("\udce9t\udce9", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "is not UTF-8", "fetch or pack the shard anew")
