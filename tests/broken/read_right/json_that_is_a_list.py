"""A .json that holds a list of boxes, beside captions in members of their own."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    boxes = b"[[0, 0, 8, 8]]"
    pack(folder / "src" / "a.tar", sample("a", txt=b"one", json=boxes), sample("b", txt=b"two", json=boxes))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one", json=boxes), row("b", caption="two", json=boxes)])
