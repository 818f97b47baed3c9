"""Two columns of one name, of which nobody can say which is meant."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.broken.inputs import Refused


def build(folder: Path) -> Refused:
    (folder / "src").mkdir()
    content = pa.table([["a"], ["one"], ["two"]], names=["key", "caption", "caption"])
    pq.write_table(content, folder / "src" / "0.parquet")
    return Refused("make --source src --swap 1", "src/0.parquet", "two columns 'caption'", "rename one of them")
