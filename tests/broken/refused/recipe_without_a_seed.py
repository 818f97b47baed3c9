"""A recipe file that states no seed."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "recipe.toml", b'[[chain]]\nkind = "swap"\nratio = "0.5"\n', end=b"")
    return Refused("make --source src --recipe recipe.toml", "recipe.toml", "a required field is missing", "state seed", key="seed")
