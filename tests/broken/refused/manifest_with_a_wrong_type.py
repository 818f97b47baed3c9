"""A manifest whose number of rows is a text, under checksums that fit."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, reseal, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    reseal(folder / "v", lambda manifest: manifest["counts"].update(rows="four"))
    return Refused("show v", "v/.corruptkit/manifest.json", "found 'four'", "do not use it", key="counts.rows")
