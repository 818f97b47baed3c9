"""Keys in other alphabets, two of which differ in their normal form alone."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    keys = ["日本", "ключ", "\u00e9", "e\u0301", "\N{GRINNING FACE}"]
    pack(folder / "src" / "a.tar", *(sample(key, txt=f"of {key}".encode()) for key in keys))
    return ReadRight("--source src --swap 1 --of eligible", [row(key, caption=f"of {key}") for key in keys])
