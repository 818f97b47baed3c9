"""A rewrite without the texts."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused(
        "make --source src --rewrite 0.5",
        "--rewrite",
        "2 of 2 chosen rows have no text in the table",
        "make them with: python",
        key="chain.0",
    )
