"""A variant that is still being written, as the source of another."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "v" / "a.tar")
    (folder / "v" / ".corruptkit" / "partial").mkdir(parents=True)
    return Refused("make --source v --swap 0.5", "v", "an unfinished variant", "start the same `corruptkit make` again")
