"""A metadata.csv with a row of more cells than its header, as an unquoted comma makes it."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\nb.jpg,two, and more\n", end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "a row with more or fewer cells than the header", "mend the file")
