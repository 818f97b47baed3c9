"""A column of images in which one is null."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "0.parquet", key=["a", "b"], image=[b"x", None], caption=["one", "two"])
    do = "leave such rows out with --bad exclude"
    return Refused("make --source src --swap 1 --format parquet", "src/0.parquet", "an image without bytes", do, key="b")
