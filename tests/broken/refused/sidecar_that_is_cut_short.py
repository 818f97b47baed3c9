"""A side-car .parquet that begins well and ends too early."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "src" / "a.parquet", b"PAR1" + bytes(100), end=b"")
    return Refused("make --source src --swap 0.5", "src/a.parquet", "it cannot be read", "fetch it anew or remove it")
