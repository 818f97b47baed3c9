"""Shards where an overlay is to be written out."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    return Refused("make --from v --format parquet", "v", "a variant in the format webdataset", "state it as --source")
