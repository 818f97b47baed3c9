"""A column `caption` in a list of images whose captions stand in another column."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,caption,recap\na.jpg,x,one\nb.jpg,y,two\n", end=b"")
    words, found = "make --source src --swap 1 --caption-column recap", "a column 'caption' beside the caption of the rows"
    return Refused(words, "src/metadata.csv", found, "rename it, or write the source's own format or an overlay")
