"""A .json of gzip bytes that unpack to gigabytes, where the caption should stand."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    bomb = gzip.compress(gzip.compress(bytes(1 << 20)) * 4096)  # 4 GiB of zeros, packed twice
    pack(folder / "src" / "a.tar", sample("a", json=b'{"caption": "one"}'), sample("b", json=bomb))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a .json member that cannot be read", "mend the sample", key="b")
