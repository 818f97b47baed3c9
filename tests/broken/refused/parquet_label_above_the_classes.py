"""A label in Parquet that is not below the number of classes that was stated."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], label=[0, 3])
    return Refused(
        "make --source src --flip 0.5 --classes 3", "src/a.parquet", "label 3", "state the right --classes or mend the label", key="b"
    )
