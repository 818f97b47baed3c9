"""A Parquet file that lacks the column that the key rule names."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", id=["a", "b"], text=["one", "two"])
    return Refused("make --source src --swap 0.5 --key column:uid", "src/a.parquet", "no column 'uid'", "name one of: id, text")
