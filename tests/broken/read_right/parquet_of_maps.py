"""A Parquet file with a column of maps, some of whose values are no numbers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    maps = pa.array([[("x", float("inf"))], [("y", 1.0)]], pa.map_(pa.string(), pa.float64()))
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"], scores=maps)
    rows = [{"key": "a", "caption": "one", "scores": [("x", float("inf"))]}, {"key": "b", "caption": "two", "scores": [("y", 1.0)]}]
    return ReadRight("--source src --swap 1", rows)
