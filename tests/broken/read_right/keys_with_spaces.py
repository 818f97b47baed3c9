"""Keys with spaces, quotes and what shells expand."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    keys = [" a b ", "it's", '"$HOME"', "*", "-rf", "~", "a\\b"]
    pack(folder / "src" / "a.tar", *(sample(key, txt=f"of {key}".encode()) for key in keys))
    return ReadRight("--source src --swap 1 --of eligible", [row(key, caption=f"of {key}") for key in keys])
