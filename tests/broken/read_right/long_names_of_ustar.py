"""Names of more than a hundred bytes, in the prefix field of POSIX."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    keys = [f"{letter * 80}/{letter * 90}" for letter in "ab"]
    pack(folder / "src" / "a.tar", *(sample(key, txt=key[:1].encode()) for key in keys))
    return ReadRight("--source src --swap 1 --of eligible", [row(key, caption=key[:1]) for key in keys])
