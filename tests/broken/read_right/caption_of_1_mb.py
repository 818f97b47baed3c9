"""A caption of a megabyte."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", txt=b"word " * 200_000), sample("b", txt=b"short"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="word " * 200_000), row("b", caption="short")])
