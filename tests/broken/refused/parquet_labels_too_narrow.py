"""Labels of 8 bits for a thousand classes: the new label would not fit."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=[f"{i}" for i in range(40)], label=pa.array([i % 3 for i in range(40)], pa.int8()))
    return Refused("make --source src --flip 1 --classes 1000", "src/a.parquet", "cannot hold every class", "cast it to int64")
