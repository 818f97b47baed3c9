"""A flip of labels in a source that has none."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"two"))
    return Refused("make --source src --flip 0.5", "src", "no row has a label", "state --label-column", key="chain.0")
