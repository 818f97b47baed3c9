"""A ratio that TOML calls a number and that is none."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "r.toml", b'seed = 0\n[[chain]]\nkind = "swap"\nratio = nan\n', end=b"")
    return Refused("make --source src --recipe r.toml", "r.toml", "found NaN", "mend the value", key="chain.0.swap.ratio")
