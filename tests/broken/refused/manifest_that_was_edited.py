"""A manifest that somebody has changed by hand."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    manifest = folder / "v" / ".corruptkit" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows": 4', b'"rows": 5'))
    return Refused("show v", "v/.corruptkit/manifest.json", "does not match manifest.sha256", "do not use it")
