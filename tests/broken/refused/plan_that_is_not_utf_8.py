"""An overlay whose plan gives rows a caption that is no text."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --format overlay --out v")
    plan = folder / "v" / ".corruptkit" / "plan.parquet"
    edits = pq.read_table(plan)
    odd = pa.array([b"\xe9t\xe9"] * len(edits), pa.binary()).view(pa.string())
    pq.write_table(edits.set_column(edits.column_names.index("new"), "new", odd), plan)
    return Refused("make --source v --swap 0.5", "v/.corruptkit/plan.parquet", "it cannot be read", "do not use it")
