"""An overlay whose plan is half a Parquet file."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --format overlay --out v")
    plan = folder / "v" / ".corruptkit" / "plan.parquet"
    plan.write_bytes(plan.read_bytes()[:1000])
    return Refused("make --source v --swap 0.5", "v/.corruptkit/plan.parquet", "it cannot be read", "do not use it")
