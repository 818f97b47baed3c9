"""A plan that is to be written over a shard of its own source."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"])
    words = "plan --source src --swap 1 --out src/a.parquet"
    return Refused(words, "src/a.parquet", "it would be taken for a shard", "choose another --out")
