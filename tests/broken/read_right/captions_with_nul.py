"""Captions with a NUL and other control characters."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    odd = "a\0b\x1b[31m\x7f\x85"
    pack(folder / "src" / "a.tar", sample("a", txt=odd.encode()), sample("b", txt=b"plain"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption=odd), row("b", caption="plain")])
