"""An overlay whose source has been removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    shard = pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --format overlay --out v")
    shutil.rmtree(shard.parent)
    return Refused("make --source v --swap 0.5", f"{folder}/src", "the variant's source is not there", "state --source PATH", key="v")
