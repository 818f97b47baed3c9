"""A member with a name of a mebibyte, in a pax header."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b" * 2**20 + ".jpg", JPG, form=tarfile.PAX_FORMAT)
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd)
    return Refused("make --source src --swap 0.5", "src/a.tar", "an extension header of 10485", "fetch or pack the shard anew")
