"""A Parquet file whose download stopped in the middle."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    whole = table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"])
    whole.write_bytes(whole.read_bytes()[:-20])
    return Refused("make --source src --swap 0.5", "src/a.parquet", "it cannot be read", "fetch or write the shard anew")
