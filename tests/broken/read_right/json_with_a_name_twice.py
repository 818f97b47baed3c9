"""A .json that states its caption twice: every reader takes the last."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    twice = b'{"caption": "first", "caption": "last"}'
    once = b'{"caption": "only"}'
    pack(folder / "src" / "a.tar", sample("a", json=twice), sample("b", json=once))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="last", json=twice), row("b", caption="only", json=once)])
