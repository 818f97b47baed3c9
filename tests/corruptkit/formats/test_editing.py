"""Rows as tables: pieces of shards that do not have the same columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from corruptkit.errors import DatasetError
from corruptkit.formats.editing import fit_table

SCHEMA = pa.schema([("key", pa.large_string()), ("note", pa.int64())])


def test_column_that_a_shard_lacks_is_null() -> None:
    fitted = fit_table(pa.table({"key": ["a"], "other": ["x"]}), SCHEMA, Path("b.parquet"))
    assert fitted.schema == SCHEMA
    assert fitted.to_pylist() == [{"key": "a", "note": None}]


@pytest.mark.parametrize("note", [["two"], [["two"]]])
def test_column_of_another_type_is_told(note: list[object]) -> None:
    with pytest.raises(DatasetError) as caught:
        fit_table(pa.table({"key": ["a"], "note": note}), SCHEMA, Path("b.parquet"))
    assert str(caught.value).startswith("b.parquet: the column 'note' is of type ")
    assert str(caught.value).endswith(", expected int64, as in another shard; give all shards one schema")
