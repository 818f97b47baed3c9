"""Members that are folders, and samples that lie in them under the same base name."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import ReadRight, member, pack, row, sample


def build(folder: Path) -> ReadRight:
    folders = [member(f"{name}/", type=tarfile.DIRTYPE, mode=0o755) for name in ("x", "y", "y/z")]
    pack(folder / "src" / "a.tar", *folders, sample("x/a", txt=b"one"), sample("y/a", txt=b"two"), sample("y/z/a", txt=b"three"))
    return ReadRight(
        "--source src --swap 1 --of eligible", [row("x/a", caption="one"), row("y/a", caption="two"), row("y/z/a", caption="three")]
    )
