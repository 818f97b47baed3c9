"""A target in which something of the user's lies."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "v" / "photo.jpg", JPG, end=b"")
    return Refused("make --source src --swap 0.5 --out v", "v", "the folder holds 'photo.jpg'", "choose another --out")
