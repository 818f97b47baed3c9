"""A shard that is written again after its plan was made and before the variant is."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    shard = pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --swap 0.5", "src/a.tar", "its size or time has changed", "start again", after_plan=shard.touch)
