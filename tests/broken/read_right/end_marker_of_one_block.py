"""A tar that ends in one block of zeros instead of two."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import BLOCK, ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"two and more"), end=bytes(BLOCK))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two and more")])
