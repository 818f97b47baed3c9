"""A shard that holds an end marker and nothing else, among others."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"))
    pack(folder / "src" / "b.tar")
    pack(folder / "src" / "c.tar", sample("c", txt=b"two"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("c", caption="two")])
