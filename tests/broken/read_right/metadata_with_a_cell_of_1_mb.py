"""A metadata.csv with a caption of a megabyte."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, images, pack, row


def build(folder: Path) -> ReadRight:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\nb.jpg," + b"x" * (1 << 20), end=b"")
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="x" * (1 << 20))])
