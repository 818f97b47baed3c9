"""A metadata.csv that names a symbolic link to a file of the system."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    (folder / "src" / "c.jpg").symlink_to("/etc/passwd")
    pack(folder / "src" / "metadata.csv", b"file_name,text\na.jpg,one\nc.jpg,two\n", end=b"")
    return Refused(
        "make --source src --swap 0.5", "src/metadata.csv", "'c.jpg' leads out of the folder", "mend the metadata file", key="row 2"
    )
