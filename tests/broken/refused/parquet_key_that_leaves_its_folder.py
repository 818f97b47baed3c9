"""A key that begins with ../ in a column of keys."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "../b"], caption=["one", "two"])
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "a key that leaves its folder",
        "mend the row, or leave such rows out with --bad exclude",
        key="../b",
    )
