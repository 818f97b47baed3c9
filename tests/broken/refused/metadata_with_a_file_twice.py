"""A metadata.csv that names one image in two rows."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\na.jpg,two\n", end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "duplicate key", "choose another --key rule", key="a")
