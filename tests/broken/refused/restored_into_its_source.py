"""An overlay's source restored to a folder inside of it, where it would become a part of it."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, run


def build(folder: Path) -> Refused:
    images(folder / "src", "a/0.jpg", "a/1.jpg", "b/2.jpg")
    run("make --source src --flip 1 --format overlay --out ov")
    return Refused("restore ov --out src/back", "src/back", "the source lies at", "choose another --out")
