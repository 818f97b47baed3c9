"""A label that no 64-bit integer can hold."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", cls=b"0"), sample("b", cls=b"111111111111111111111111111111"))
    return Refused("make --source src --flip 0.5", "src/a.tar", "found the label '11", "mend the sample", key="b")
