"""A member that is a character device."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b.jpg", type=tarfile.CHRTYPE)
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd, sample("c", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a character device", "pack the shard anew", key="b.jpg")
