"""Two Parquet files, of which the second has its columns in another order and one more."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    table(folder / "src" / "a.parquet", key=["a"], caption=["one"])
    table(folder / "src" / "b.parquet", note=["x"], caption=["two"], key=["b"])
    return ReadRight("--source src --swap 1 --of eligible", [{"key": "a", "caption": "one"}, {"key": "b", "caption": "two", "note": "x"}])
