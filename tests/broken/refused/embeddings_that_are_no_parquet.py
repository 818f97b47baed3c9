"""Embeddings in a file of text."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "e.parquet", b"key,embedding\n", end=b"")
    return Refused("make --source src --swap 1 --mode near --embeddings e.parquet", "--embeddings", "cannot read", "name a Parquet file")
