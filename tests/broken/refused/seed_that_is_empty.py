"""A seed that an unset variable of a shell has left empty."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --swap 0.5 --seed=", "--seed", "found ''", "mend")
