"""A key of no letters in a column of keys."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", ""], caption=["one", "two"])
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "an empty key",
        "mend the row, or leave such rows out with --bad exclude",
        key="row 1",
    )
