"""A Parquet file with nulls in columns that are no conditions: numbers, lists, texts."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    columns = {"n": [1, None, None], "tags": [None, ["x", None], []], "note": [None, "y", None]}
    table(folder / "src" / "a.parquet", key=["a", "b", "c"], caption=["one", "two", "three"], **columns)
    rows = [{"key": "a", "caption": "one", "n": 1}, {"key": "b", "caption": "two", "tags": ["x", None], "note": "y"}]
    return ReadRight("--source src --swap 1 --of eligible", [*rows, {"key": "c", "caption": "three", "tags": []}])
