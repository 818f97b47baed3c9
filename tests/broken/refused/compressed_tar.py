"""A shard with the suffix .tar.gz, among others that are not compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    whole = pack_good(folder / "src" / "a.tar")
    (folder / "src" / "b.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    return Refused("make --source src --swap 0.5", "src/b.tar.gz", "a compressed tar", "unpack it first")
