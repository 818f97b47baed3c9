"""A pax header whose record is longer than the header."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("pax", b"99 path=b.jpg\n", type=tarfile.XHDTYPE) + member("b.jpg", JPG)
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd)
    return Refused(
        "make --source src --swap 0.5", "src/a.tar", "a pax header that cannot be read at byte 2048", "fetch or pack the shard anew"
    )
