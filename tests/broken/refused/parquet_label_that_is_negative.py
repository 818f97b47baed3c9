"""A label of -1, as test splits on the Hub have it."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], label=[0, -1])
    return Refused(
        "make --source src --flip 0.5",
        "src/a.parquet",
        "the label -1",
        "mend the row, or leave such rows out with --bad exclude",
        key="row 1",
    )
