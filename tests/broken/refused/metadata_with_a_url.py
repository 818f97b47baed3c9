"""A metadata.csv that names an image of the web."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\nhttps://example.org/b.jpg,two\n", end=b"")
    return Refused(
        "make --source src --swap 0.5", "src/metadata.csv", "the path 'https://example.org/b.jpg'", "mend the metadata file", key="row 2"
    )
