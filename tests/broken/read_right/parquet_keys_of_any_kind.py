"""Keys in a column with spaces, slashes, dots and other alphabets."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    keys = ["a b", "x/y.z", ".hidden", "日本", "per%cent", "e\u0301"]
    table(folder / "src" / "a.parquet", key=keys, caption=[f"of {key}" for key in keys])
    return ReadRight("--source src --swap 1 --of eligible", [{"key": key, "caption": f"of {key}"} for key in keys])
