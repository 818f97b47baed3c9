"""A recipe that an editor has saved with a byte order mark."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "r.toml", b'\xef\xbb\xbfseed = 0\n[[chain]]\nkind = "swap"\nratio = 0.5\n', end=b"")
    return Refused("make --source src --recipe r.toml", "r.toml", "it begins with a byte order mark", "mend the file")
