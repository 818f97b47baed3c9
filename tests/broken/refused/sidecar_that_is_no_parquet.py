"""A side-car .parquet that holds a page of HTML."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "src" / "a.parquet", b"<html>Not Found</html>", end=b"")
    return Refused("make --source src --swap 0.5", "src/a.parquet", "it cannot be read", "fetch it anew or remove it")
