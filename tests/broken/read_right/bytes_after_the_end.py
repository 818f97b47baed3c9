"""A tar with odd bytes behind its end marker, no whole block of them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import END, ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(
        folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"two"), end=END + bytes(1000) + b"what is left of a larger file"
    )
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two")])
