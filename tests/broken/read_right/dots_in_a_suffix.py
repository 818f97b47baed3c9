"""Two dots in a name: the key ends at the first of them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    mask = {"seg.png": b"a mask"}
    pack(folder / "src" / "a.tar", sample("a", txt=b"one", **mask), sample("b", **mask, txt=b"two"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one", **mask), row("b", caption="two", **mask)])
