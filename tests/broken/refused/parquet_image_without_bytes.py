"""An image that is a path alone: the file that it names is not there for others."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    images = [{"bytes": b"x", "path": "a.jpg"}, {"bytes": None, "path": "b.jpg"}]
    table(folder / "src" / "0.parquet", image=images, caption=["one", "two"])
    do = "leave such rows out with --bad exclude"
    return Refused("make --source src --swap 1", "src/0.parquet", "an image without bytes", do, key="b")
