"""A recipe file that is JSON."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "recipe.toml", b'{"seed": 0}', end=b"")
    return Refused("make --source src --recipe recipe.toml", "recipe.toml", "not a TOML file", "mend the file")
