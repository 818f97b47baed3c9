"""A key in Latin-1, in a Parquet file whose writer did not look."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table, texts


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=texts(b"a", b"\xe9t\xe9"), caption=["one", "two"])
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "a key that is not UTF-8 at byte 0",
        "mend the row, or leave such rows out with --bad exclude",
        key="row 1",
    )
