"""A column of integer labels, all of which are null."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], label=pa.nulls(2, pa.int64()))
    return Refused("make --source src --flip 0.5", "src", "no row has a label", "state --label-column", key="chain.0")
