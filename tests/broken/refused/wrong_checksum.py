"""A header with one flipped bit, so that its checksum does not fit."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    header = bytearray(sample("b", txt=b"two"))
    header[100] ^= 1
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), bytes(header))
    return Refused("make --source src --swap 0.5", "src/a.tar", "no tar header at byte 2048", "fetch or pack the shard anew")
