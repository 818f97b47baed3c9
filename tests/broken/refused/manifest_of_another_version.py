"""A manifest of a format that is to come."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, reseal, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    reseal(folder / "v", lambda manifest: manifest.update(format_version=2))
    return Refused(
        "make --source v --swap 0.5", "v/.corruptkit/manifest.json", "format_version 2", "read it with the corruptkit that wrote it"
    )
