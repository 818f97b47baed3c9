"""A label that is larger than any signed integer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], label=pa.array([0, 2**63], pa.uint64()))
    return Refused(
        "make --source src --flip 0.5",
        "src/a.parquet",
        "labels in 'label' above 2^63",
        "mend the row, or leave such rows out with --bad exclude",
    )
