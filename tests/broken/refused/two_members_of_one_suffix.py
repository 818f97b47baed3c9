"""A sample with two captions, one of them under a suffix in capitals."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"two", TXT=b"three"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "two members .txt", "rename one of them", key="b")
