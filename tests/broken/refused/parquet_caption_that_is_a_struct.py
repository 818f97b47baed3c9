"""A Parquet file whose captions are records of a text and a language."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=[{"text": "one", "lang": "en"}, {"text": "two", "lang": "en"}])
    return Refused(
        "make --source src --swap 0.5",
        "src/a.parquet",
        "the column 'caption' is of type struct<",
        "cast the column, or name another --caption-column",
    )
