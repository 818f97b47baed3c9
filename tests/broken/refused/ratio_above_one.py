"""A ratio that means per cent and says five times all rows."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --swap 5", "--swap", "found '5'", "mend")
