"""A metadata.csv whose header names a column twice."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text,text\na.jpg,one,1\nb.jpg,two,2\n", end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "a header with two columns 'text'", "mend the file")
