"""A folder of downloads for a source that is made of installed packages."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(folder: Path) -> Refused:
    (folder / "downloads").mkdir()
    return Refused("fetch openmoji --from downloads", "--from", "openmoji downloads nothing", "leave --from out")
