"""A Parquet file of a row group a row, and large strings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    whole = table(folder / "src" / "a.parquet", key=["a", "b", "c"], caption=pa.array(["one", "two", ""], pa.large_string()))
    pq.write_table(pq.read_table(whole), whole, row_group_size=1)
    return ReadRight(
        "--source src --swap 1 --of eligible", [{"key": "a", "caption": "one"}, {"key": "b", "caption": "two"}, {"key": "c", "caption": ""}]
    )
