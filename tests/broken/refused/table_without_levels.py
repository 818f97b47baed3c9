"""A table of texts in Parquet without a column of levels."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, table


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    table(folder / "texts.parquet", key=["a0"], text=["x"])
    return Refused("make --source src --rewrite 1 --table texts.parquet", "--table", "found a table with 0 columns 'level'", "mend")
