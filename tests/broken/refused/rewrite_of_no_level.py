"""A rewrite with no level of corruption."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --rewrite 0.5 --levels 0", "--levels", "found 0", "mend")
