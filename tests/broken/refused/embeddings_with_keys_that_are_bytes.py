"""Embeddings whose keys are binary."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, table


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    table(folder / "e.parquet", key=[b"a", b"b"], embedding=[[1.0, 2.0], [0.0, 1.0]])
    words = "make --source src --swap 1 --mode near --embeddings e.parquet"
    return Refused(words, "--embeddings", "a column 'key' of binary", "mend")
