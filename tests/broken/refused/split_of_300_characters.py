"""A split on the command line whose name no file can have."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused(f"make --source src --swap 1 --split {'x' * 300}", "--split", "at most 100 bytes", "name the split otherwise")
