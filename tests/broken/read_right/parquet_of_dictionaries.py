"""A Parquet file whose captions and labels are dictionaries, as pandas' categories are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    columns = {"caption": pa.array(["one", "two"]).dictionary_encode(), "label": pa.array([0, 1], pa.int8()).dictionary_encode()}
    table(folder / "src" / "a.parquet", key=["a", "b"], **columns)
    return ReadRight(
        "--source src --swap 1 --of eligible", [{"key": "a", "label": 0, "caption": "one"}, {"key": "b", "label": 1, "caption": "two"}]
    )
