"""A page of HTML under a name that ends in .arrow."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.arrow", b"<html>Not Found</html>" * 9, end=b"")
    return Refused("make --source src --swap 0.5", "src/a.arrow", "it cannot be read", "fetch or write the shard anew")
