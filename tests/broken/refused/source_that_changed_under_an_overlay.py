"""A source with a new caption, while an overlay over it is still read."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    shard = pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --format overlay --out v")
    shard.write_bytes(shard.read_bytes().replace(b"caption 0", b"CAPTION 0"))
    return Refused("make --source v --swap 0.5", f"{folder}/src", "fingerprint", "name the source that the variant was made of", key="v")
