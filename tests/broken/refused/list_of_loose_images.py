"""What img2dataset writes as `files`: loose images, and a Parquet beside their folder that lists them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, table


def build(folder: Path) -> Refused:
    images(folder / "src", "00000/000000000.jpg", "00000/000000001.jpg")
    table(folder / "src" / "00000.parquet", key=["000000000", "000000001"], caption=["one", "two"])
    return Refused(
        "make --source src --swap 0.5", "src/00000.parquet", "a list of the images that lie in 00000/", "--output_format webdataset"
    )
