"""A pax header that states a size that fits no file system."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b.jpg", JPG, form=tarfile.PAX_FORMAT, pax={"size": "9" * 100})
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd)
    return Refused("make --source src --swap 0.5", "src/a.tar", "a pax size of b'999", "fetch or pack the shard anew")
