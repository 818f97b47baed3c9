"""An overlay that is read over another source than its own."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    for name in ("src", "other"):
        pack_good(folder / name / f"{name}.tar")
    run("make --source src --swap 0.5 --format overlay --out v")
    return Refused("restore v --source other --out again", "other", "fingerprint", "name the source that the variant was made of", key="v")
