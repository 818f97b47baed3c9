"""A caption that is no caption: 64 MiB of text."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=bytes(1 << 26)))
    return Refused("make --source src --swap 0.5", "src/a.tar", "67108864 bytes", "mend the sample", key="b.txt")
