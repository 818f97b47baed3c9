"""A label with a decimal point."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", cls=b"0"), sample("b", cls=b"1.0"))
    return Refused("make --source src --flip 0.5", "src/a.tar", "found the label '1.0'", "mend the sample", key="b")
