"""A shard that its reader has no permission to read."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar").chmod(0)
    return Refused("make --source src --swap 0.5", "src/a.tar", "cannot be read: Permission denied", "permissions", mortal=True)
