"""A label member that holds nothing."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", cls=b"0"), sample("b", cls=b""))
    return Refused("make --source src --flip 0.5", "src/a.tar", "found the label ''", "mend the sample", key="b")
