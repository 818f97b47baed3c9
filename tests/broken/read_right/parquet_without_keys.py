"""A Parquet file without keys and paths: its rows are named by their order."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, ReadRight, row, table


def build(folder: Path) -> ReadRight:
    table(folder / "src" / "a.parquet", image=[JPG, JPG], text=["one", "two"])
    table(folder / "src" / "b.parquet", image=[JPG], text=["three"])
    rows = [row(f"row-{number:012d}", caption=caption) for number, caption in enumerate(("one", "two", "three"))]
    return ReadRight("--source src --swap 1 --of eligible", rows)
