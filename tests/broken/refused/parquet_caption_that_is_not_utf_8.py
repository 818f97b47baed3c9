"""A caption in Latin-1, in a Parquet file whose writer did not look."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table, texts


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=texts(b"one", b"\xe9t\xe9"))
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "a caption that is not UTF-8 at byte 0",
        "mend the row, or leave such rows out with --bad exclude",
        key="row 1",
    )
