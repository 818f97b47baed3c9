"""A key twice in a source that is one shard, named by its own path."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"two"), sample("a", txt=b"three"))
    return Refused(
        "make --source src/a.tar --swap 0.5", "src/a.tar", "duplicate key", "choose another --key rule, such as shard/key", key="a"
    )
