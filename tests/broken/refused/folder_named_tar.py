"""A folder under a name that ends in .tar."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    (folder / "src" / "x.tar").mkdir()
    return Refused("make --source src --swap 0.5", "src/x.tar", "no regular file", "mend the path")
