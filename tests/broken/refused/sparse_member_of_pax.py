"""A member with holes that states a size of 10 GB, in a pax header."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, Refused, member, pack, sample


def build(folder: Path) -> Refused:
    said = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg", "GNU.sparse.realsize": str(10**10)}
    odd = member("b.jpg", JPG, form=tarfile.PAX_FORMAT, pax=said)
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd, sample("c", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a sparse member at byte 2048", "pack the shard anew")
