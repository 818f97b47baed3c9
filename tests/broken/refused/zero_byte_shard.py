"""A shard of no bytes, as a failed download leaves it."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "src" / "b.tar", end=b"")
    return Refused("make --source src --swap 0.5", "src/b.tar", "the archive ends at byte 0", "fetch or pack the shard anew")
