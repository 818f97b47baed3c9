"""A swap of captions in a source that has none."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", cls=b"0"), sample("b", cls=b"1"))
    return Refused("make --source src --swap 0.5", "src", "no row has a caption", "state --caption-column", key="chain.0")
