"""A column of labels that holds nulls alone and has no type."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], label=pa.nulls(2))
    return Refused(
        "make --source src --flip 0.5",
        "src/a.parquet",
        "the column 'label' is of type null",
        "cast the column, or name another --label-column",
    )
