"""A column of records with two fields of one name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    table(folder / "src" / "0.arrow", key=["a"], caption=["one"], more=twice)
    return Refused("make --source src --swap 1", "src/0.arrow", "two columns 'x'", "rename one of them")
