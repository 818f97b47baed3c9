"""A target that is a file."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "v", JPG, end=b"")
    return Refused("make --source src --swap 0.5 --out v", "v", "something else lies there", "choose another --out")
