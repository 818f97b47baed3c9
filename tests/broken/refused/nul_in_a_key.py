"""A member name with a NUL, which only a pax header can hold."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, Refused, member, pack, sample


def build(folder: Path) -> Refused:
    odd = member("b", JPG, form=tarfile.PAX_FORMAT, pax={"path": "b\0c.jpg"})
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), odd)
    return Refused("make --source src --swap 0.5", "src/a.tar", "a control character", "rename the sample", key="b\0c")
