"""A Parquet file of no bytes."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"])
    pack(folder / "src" / "b.parquet", end=b"")
    return Refused("make --source src --swap 0.5", "src/b.parquet", "it cannot be read", "fetch or write the shard anew")
