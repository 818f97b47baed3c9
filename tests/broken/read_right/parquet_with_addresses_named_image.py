"""A Parquet file whose column `image` is text, beside a column of bytes that holds the images."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, ReadRight, row, table


def build(folder: Path) -> ReadRight:
    table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"], image=["u", "v"], jpg=[JPG, JPG])
    rows = [row("a", caption="one"), row("b", caption="two")]
    return ReadRight("--source src --swap 1", rows, ("parquet", "overlay"))  # another format has room for one image
