"""Labels as floating point numbers, as pandas makes them of integers with gaps."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], label=[0.0, 1.0])
    return Refused(
        "make --source src --flip 0.5",
        "src/a.parquet",
        "the column 'label' is of type double",
        "cast the column, or name another --label-column",
    )
