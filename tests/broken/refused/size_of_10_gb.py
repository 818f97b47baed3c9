"""A member that states 10 GB in an archive of a few kilobytes."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import BLOCK, JPG, Refused, forge, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b.jpg", JPG, form=tarfile.GNU_FORMAT)
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), forge(odd[:BLOCK], 124, b"\x80" + (10**10).to_bytes(11, "big")) + odd[BLOCK:])
    return Refused(
        "make --source src --swap 0.5", "src/a.tar", "10000000000 bytes of content, 1536 left", "fetch or pack the shard anew", key="b.jpg"
    )
