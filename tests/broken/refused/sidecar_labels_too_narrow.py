"""Labels of 8 bits in a side-car for many classes: the new label would not fit."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused, pack_good, table


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "00000.tar")
    keys = [f"00000{i}" for i in range(4)]
    table(folder / "src" / "00000.parquet", key=keys, label=pa.array([i % 3 for i in range(4)], pa.int8()))
    words = "make --source src --flip 1 --classes 100000"
    return Refused(words, "src/00000.parquet", "a label of type int8 cannot hold every class", "cast it to int64")
