"""A metadata.parquet that is a page of HTML."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.parquet", b"<html>Not Found</html>", end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.parquet", "it cannot be read", "mend the file")
