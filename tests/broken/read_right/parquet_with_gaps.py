"""A Parquet file with nulls among captions, labels and other columns."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    table(folder / "src" / "a.parquet", key=["a", "b", "c"], caption=["one", None, "two"], label=[0, 1, None], note=[None, "x", None])
    rows = [{"key": "a", "label": 0, "caption": "one"}, {"key": "b", "label": 1, "note": "x"}, {"key": "c", "caption": "two"}]
    return ReadRight("--source src --flip 1 --of eligible", rows, ("parquet", "arrow", "overlay"))
