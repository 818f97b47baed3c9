"""Two Parquet files, of which the second lacks the column of captions that was named."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], text=["one", "two"])
    table(folder / "src" / "b.parquet", key=["c", "d"])
    return Refused("make --source src --swap 0.5 --caption-column text", "src/b.parquet", "no column 'text'", "name one of: key")
