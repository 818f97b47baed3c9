"""A member with nothing before the first dot of its name."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "an empty key", "rename the member", key=".jpg")
