"""A caption in Latin-1."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt="\u00e9t\u00e9".encode("latin-1")))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a caption that is not UTF-8 at byte 0", "mend the sample", key="b")
