"""A metadata.csv that names an image in a folder that is a link to another place."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    images(folder / "other", "c.jpg")
    (folder / "src" / "sub").symlink_to("../other")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\nsub/c.jpg,two\n", end=b"")
    found = "'sub/c.jpg' leads out of the folder"
    return Refused("make --source src --swap 0.5", "src/metadata.csv", found, "mend the metadata file", key="row 2")
