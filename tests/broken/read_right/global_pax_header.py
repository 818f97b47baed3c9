"""A global pax header with a comment, as git archive writes it."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import ReadRight, member, pack, row, sample


def build(folder: Path) -> ReadRight:
    comment = member("pax_global_header", b"19 comment=0123abc\n", type=tarfile.XGLTYPE)
    pack(folder / "src" / "a.tar", comment, sample("a", txt=b"one"), comment, sample("b", txt=b"two and more"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two and more")])
