"""Two class names for a source of three classes."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "names.json", b'["cat", "dog"]', end=b"")
    return Refused(
        "make --source src --constant 0.5 --mode template --text {} --names names.json",
        "--constant",
        "found 2 names",
        "mend",
        key="chain.0",
    )
