"""A key that stands in two Parquet files."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"])
    table(folder / "src" / "b.parquet", key=["b", "c"], caption=["three", "four"])
    return Refused("make --source src --swap 0.5", "src/b.parquet", "duplicate key", "choose another --key rule", key="b")
