"""A folder of downloads that lacks what is needed."""

from __future__ import annotations

from pathlib import Path

from corruptkit.fetching.fashion import PACKAGE
from tests.broken.inputs import Refused


def build(folder: Path) -> Refused:
    (folder / "downloads").mkdir()
    return Refused(
        "fetch fashion-mnist --from downloads", f"downloads/{PACKAGE.file}", "no such file", "name another folder, or leave --from out"
    )
