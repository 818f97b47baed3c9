"""A manifest that lacks its counts, under checksums that fit."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, reseal, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    reseal(folder / "v", lambda manifest: manifest.pop("counts"))
    return Refused("show v", "v/.corruptkit/manifest.json", "a required field is missing", "do not use it", key="counts")
