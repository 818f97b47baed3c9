"""A label that is an id in truth: there are then more classes than memory has room to count."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", cls=b"2147483648"), sample("b", cls=b"7"))
    return ReadRight("--source src --flip 1 --mode prior", [row("a", label=2**31), row("b", label=7)])
