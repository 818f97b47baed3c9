"""A Parquet file that lacks the column that was named."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], text=["one", "two"])
    return Refused("make --source src --swap 0.5 --caption-column nope", "src/a.parquet", "no column 'nope'", "name one of: key, text")
