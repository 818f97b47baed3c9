"""A metadata.csv that names an image with an escape sequence in its name."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    images(folder / "src", "\x1b[31mc.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\n\x1b[31mc.jpg,two\n", end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.csv", "a control character", "rename the sample", key="\x1b[31mc")
