"""A member with holes that states a size of 10 GB, in GNU tar's old form."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import BLOCK, JPG, Refused, forge, member, pack, sample


def build(folder: Path) -> Refused:
    header = member("b.jpg", JPG, form=tarfile.GNU_FORMAT, type=tarfile.GNUTYPE_SPARSE)
    real_size = forge(header[:BLOCK], 483, b"%011o\0" % 10**10)
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), real_size + header[BLOCK:], sample("c", txt=b"two"))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a sparse member", "pack the shard anew", key="b.jpg")
