"""A metadata.csv with a caption above the 16 MiB that a caption may have."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\nb.jpg," + b"x" * (17 << 20), end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "field larger than field limit (16777216)", "mend the file")
