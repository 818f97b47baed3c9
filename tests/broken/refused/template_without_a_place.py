"""A template in which no class name has a place."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "names.json", b'["cat", "dog"]', end=b"")
    return Refused(
        "make --source src --constant 0.5 --mode template --text cat --names names.json", "--constant", "one {} for the name", "mend"
    )
