"""A caption member that holds nothing: the caption is empty, which is not the same as none."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", txt=b""), sample("b", txt=b"one"), sample("c"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption=""), row("b", caption="one"), row("c")])
