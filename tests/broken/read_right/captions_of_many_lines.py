"""Captions with line ends of every kind, and one at the end."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    odd = "first\nsecond\r\nthird\rfourth\u2028fifth\n"
    pack(folder / "src" / "a.tar", sample("a", txt=odd.encode()), sample("b", txt=b"plain"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption=odd), row("b", caption="plain")])
