"""A download that stopped in the middle of an image."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    whole = pack_good(folder / "src" / "a.tar")
    pack(whole, whole.read_bytes()[:6660], end=b"")
    return Refused("make --source src --swap 0.5", "src/a.tar", "13 bytes of content, 4 left", "fetch or pack the shard anew", key="a2.jpg")
