"""Labels with zeros before them, so that all are of one length."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", cls=b"007"), sample("b", cls=b"000"))
    return ReadRight("--source src --flip 1 --of eligible", [row("a", label=7), row("b", label=0)])
