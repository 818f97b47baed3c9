"""A repository of the Hub with two configs, where one must be chosen."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    for name in ("en", "de"):
        table(folder / "src" / name / "a.parquet", key=["a", "b"], caption=["one", "two"])
    return Refused("make --source src --swap 0.5", "src", "several configs: de, en", "name one of the folders, such as src/de")
