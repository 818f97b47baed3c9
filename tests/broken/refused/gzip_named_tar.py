"""A gzip file under a name that ends in .tar."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from tests.broken.inputs import END, Refused, pack, sample


def build(folder: Path) -> Refused:
    noise = hashlib.shake_256(b"an image that does not shrink").digest(4096)
    pack(folder / "src" / "a.tar", gzip.compress(sample("a", jpg=noise, txt=b"one") + END), end=b"")
    return Refused("make --source src --swap 0.5", "src/a.tar", "a gzip file", "fetch or pack the shard anew")
