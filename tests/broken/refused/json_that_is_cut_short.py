"""A .json that ends in the middle of its caption."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", json=b'{"caption": "one"}'), sample("b", json=b'{"caption": "tw'))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a .json member that cannot be read", "mend the sample", key="b")
