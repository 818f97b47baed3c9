"""A member name with a line end, which would make two lines of one message."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b\nerror: c", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a control character", "rename the sample", key="b\nerror: c")
