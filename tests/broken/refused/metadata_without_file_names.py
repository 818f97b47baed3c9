"""A metadata.csv that lacks the column file_name."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"name,text\na.jpg,one\nb.jpg,two\n", end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "no file_name", "mend the metadata file", key="row 1")
