"""A member whose name begins at the root of the file system."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("/etc/b", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a key that leaves its folder", "rename the sample", key="/etc/b")
