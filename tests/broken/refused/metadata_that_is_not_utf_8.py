"""A metadata.csv in Latin-1."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", "file_name,text\na.jpg,\u00e9t\u00e9\n".encode("latin-1"), end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "it cannot be read", "mend the file")
