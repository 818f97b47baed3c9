"""Embeddings beside a swap that does not look at them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, table


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    table(folder / "e.parquet", key=["a"], embedding=[[1.0]])
    return Refused("make --source src --swap 0.5 --embeddings e.parquet", "--swap", "takes no embeddings", "leave them out")
