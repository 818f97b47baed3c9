"""A manifest that names a shard ../a.tar, under checksums that fit."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, reseal, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    reseal(folder / "v", lambda manifest: manifest["shards"][0].update(name="../a.tar"))
    return Refused("make --source v --swap 0.5", "v/.corruptkit/manifest.json", "the path '../a.tar'", "do not use it")
