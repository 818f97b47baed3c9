"""A member name with an escape sequence that would colour a terminal."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("\x1b[31mb", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a control character", "rename the sample", key="\x1b[31mb")
