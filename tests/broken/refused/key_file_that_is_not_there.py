"""A recipe that names a file of keys that is not there."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    stage = b'seed = 0\n[[chain]]\nkind = "swap"\nratio = "0.5"\nwhere = { keys_file = "keys.txt" }\n'
    pack(folder / "recipe.toml", stage, end=b"")
    return Refused(
        "make --source src --recipe recipe.toml",
        "recipe.toml",
        "keys.txt",
        "name a file that can be read",
        key="chain.0.swap.where.keys_file",
    )
