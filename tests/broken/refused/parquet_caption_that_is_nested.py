"""A Parquet file whose captions are lists of five, as COCO has them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=[["one", "eins"], ["two"]])
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "the column 'caption' is of type list<",
        "cast the column, or name another --caption-column",
    )
