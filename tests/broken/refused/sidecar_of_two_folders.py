"""A side-car beside a tar in which two folders hold samples of one base name."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample, table


def build(folder: Path) -> Refused:
    pack(folder / "src" / "00000.tar", sample("a/1", txt=b"one"), sample("b/1", txt=b"two"))
    table(folder / "src" / "00000.parquet", key=["1"], caption=["one"])
    found = "the samples 'a/1' and 'b/1' are both '1' there"
    return Refused("make --source src --swap 1 --workers 1", "src/00000.parquet", found, "mend it or move it away")
