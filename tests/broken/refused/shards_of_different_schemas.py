"""Two Parquet files, of which the second holds its captions as numbers."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"])
    table(folder / "src" / "b.parquet", key=["c", "d"], caption=[3, 4])
    return Refused(
        "make --source src --swap 0.5",
        "src/b.parquet",
        "the column 'caption' is of type int64",
        "cast the column, or name another --caption-column",
    )
