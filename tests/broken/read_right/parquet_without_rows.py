"""A Parquet file of no rows, among others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    table(folder / "src" / "a.parquet", key=pa.array([], pa.string()), caption=pa.array([], pa.string()))
    table(folder / "src" / "b.parquet", key=["a", "b"], caption=["one", "two"])
    return ReadRight("--source src --swap 1 --of eligible", [{"key": "a", "caption": "one"}, {"key": "b", "caption": "two"}])
