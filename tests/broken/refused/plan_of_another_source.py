"""An overlay whose plan was made of another source."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run

PLAN = ".corruptkit/plan.parquet"


def build(folder: Path) -> Refused:
    for name in ("src", "other"):
        pack_good(folder / name / f"{name}.tar")
        run(f"make --source {name} --swap 0.5 --format overlay --out {name}.overlay")
    shutil.copy(folder / "other.overlay" / PLAN, folder / "src.overlay" / PLAN)
    return Refused(
        "make --source src.overlay --swap 0.5",
        f"src.overlay/{PLAN}",
        "2 edits of rows that the source does not have",
        "name the source it was made of",
    )
