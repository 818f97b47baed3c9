"""A key with an escape sequence, in a column of keys."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "\x1b[31mb"], caption=["one", "two"])
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "a control character",
        "mend the row, or leave such rows out with --bad exclude",
        key="\x1b[31mb",
    )
