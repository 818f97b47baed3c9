"""A source that is misspelt."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source scr --swap 0.5", "scr", "no such file or folder", "mend the path")
