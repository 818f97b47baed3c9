"""Tars of a table in which one caption is null: readers of tars want the members of one sample in all."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "0.parquet", key=["a", "b", "c"], caption=["one", None, "two"])
    do = "leave such rows out with --caption-column NAME --bad exclude, or use --format parquet or arrow"
    return Refused("make --source src --swap 1 --of eligible --format webdataset", "src/0.parquet", "no caption", do, key="b")
