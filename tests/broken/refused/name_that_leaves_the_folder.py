"""A member whose name begins with ../ and so leaves its folder."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("../b", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a key that leaves its folder", "rename the sample", key="../b")
