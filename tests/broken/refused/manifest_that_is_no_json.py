"""A manifest that is cut short, under a checksum that fits."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --out v")
    manifest = folder / "v" / ".corruptkit" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:100])
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    manifest.with_name("manifest.sha256").write_text(f"{digest}  manifest.json\n")
    return Refused("show v", "v/.corruptkit/manifest.json", "not a JSON object", "do not use it")
