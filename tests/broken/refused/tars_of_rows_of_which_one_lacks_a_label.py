"""Tars of a table in which one label is null."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "0.arrow", key=["a", "b", "c"], label=[0, 1, None])
    do = "leave such rows out with --label-column NAME --bad exclude, or use --format parquet or arrow"
    return Refused("make --source src --flip 1 --of eligible --format webdataset", "src/0.arrow", "no label", do, key="c")
