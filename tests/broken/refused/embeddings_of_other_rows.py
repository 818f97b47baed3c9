"""Embeddings that lack the rows of the source."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, table


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    table(folder / "e.parquet", key=["nobody"], embedding=[[1.0, 2.0]])
    return Refused("make --source src --swap 1 --mode near --embeddings e.parquet", "--swap", "the embeddings lack", "mend", key="chain.0")
