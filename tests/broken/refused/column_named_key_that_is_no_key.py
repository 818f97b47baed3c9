"""A column `key` beside the column that holds the keys: another format has room for one."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "0.parquet", id=["a", "b"], key=["x", "y"], caption=["one", "two"])
    words = "make --source src --swap 1 --key column:id --format arrow"
    return Refused(words, "src/0.parquet", "a column 'key' beside the key of the rows", "rename it")
