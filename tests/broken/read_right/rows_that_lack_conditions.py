"""Rows of which some have a label, some a caption, some both and some nothing."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", cls=b"0"), sample("b", txt=b"one"), sample("c", cls=b"1", txt=b"two"), sample("d"))
    return ReadRight(
        "--source src --flip 1 --of eligible", [row("a", label=0), row("b", caption="one"), row("c", label=1, caption="two"), row("d")]
    )
