"""A table of texts whose name says Parquet and whose bytes say JSON."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.parquet", b'{"key": "a0", "level": 1, "text": "x"}', end=b"")
    return Refused("make --source src --rewrite 1 --table texts.parquet", "--table", "'texts.parquet' is not Parquet", "mend the file")
