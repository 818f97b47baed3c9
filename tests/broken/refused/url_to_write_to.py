"""A variant that is to lie on a server."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    return Refused("make --source src --swap 0.5 --out s3://bucket/out", "s3://bucket/out", "a URL", "name a folder")
