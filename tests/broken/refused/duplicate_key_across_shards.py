"""Two shards that each hold a sample of one key."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("same", txt=b"one"), sample("a", txt=b"two"))
    pack(folder / "src" / "b.tar", sample("same", txt=b"three"), sample("b", txt=b"four"))
    return Refused("make --source src --swap 0.5", "src/b.tar", "duplicate key", "choose another --key rule, such as shard/key", key="same")
