"""A folder of images with suffixes in capitals, dots, spaces, and files that are no images."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, images, row


def build(folder: Path) -> ReadRight:
    images(folder / "src", "x/a b.JPG", "x/a.b.jpg", "y/deep/c.Jpeg", "y/._c.jpg", "y/.hidden.jpg", "y/notes.txt", ".cache/d.jpg")
    rows = [row("x/a b", label=0), row("x/a.b", label=0), row("y/deep/c", label=1)]
    return ReadRight("--source src --flip 1 --of eligible", rows)
