"""A member that is a symbolic link, which could point anywhere."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b.jpg", type=tarfile.SYMTYPE, linkname="a.jpg")
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd, sample("c", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a symbolic link", "pack the shard anew", key="b.jpg")
