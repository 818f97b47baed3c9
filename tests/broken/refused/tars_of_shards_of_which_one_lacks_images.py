"""Tars of shards of which one has no column of images."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "0.parquet", key=["a"], caption=["one"], image=[b"x"])
    table(folder / "src" / "1.parquet", key=["b"], caption=["two"])
    do = "use --format parquet or arrow"
    return Refused("make --source src --swap 1 --format webdataset", "src/1.parquet", "no image", do, key="b")
