"""A folder in which neither a shard nor an image lies."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack


def build(folder: Path) -> Refused:
    pack(folder / "src" / "notes.txt", b"a note", end=b"")
    return Refused("make --source src --swap 0.5", "src", "no shard or image", "mend the path")
