"""A metadata.csv whose label is the name of a class."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,label\na.jpg,0\nb.jpg,cat\n", end=b"")
    return Refused("make --source src --flip 0.5", "src/metadata.csv", "the label 'cat'", "mend the metadata file", key="b")
