"""Captions with Hebrew letters and marks that turn the direction."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    odd = "\u202eabc\u2066\u05e9\u05dc\u05d5\u05dd\u200f"
    pack(folder / "src" / "a.tar", sample("a", txt=odd.encode()), sample("b", txt=b"plain"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption=odd), row("b", caption="plain")])
