"""Tars of a table in which a column of bytes has a null, which would be a member of its own."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "0.parquet", key=["a", "b"], caption=["one", "two"], mask=[b"x", None])
    do = "fill the column or leave it out, or use --format parquet or arrow"
    return Refused("make --source src --swap 1 --format webdataset", "src/0.parquet", "no mask", do, key="b")
