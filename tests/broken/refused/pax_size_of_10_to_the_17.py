"""A pax header that states a size of a hundred petabytes."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b.jpg", JPG, form=tarfile.PAX_FORMAT, pax={"size": str(10**17)})
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd)
    return Refused(
        "make --source src --swap 0.5",
        "src/a.tar",
        "100000000000000000 bytes of content, 1536 left",
        "fetch or pack the shard anew",
        key="b.jpg",
    )
