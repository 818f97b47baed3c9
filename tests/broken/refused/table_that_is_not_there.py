"""A table of texts that is not there."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --rewrite 0.5 --table texts.parquet", "--table", "cannot read 'texts.parquet'", "name a file")
