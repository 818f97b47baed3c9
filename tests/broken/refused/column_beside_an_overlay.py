"""The name of a column beside an overlay, which says itself how its source is read."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "0.tar")
    run("make --source src --swap 1 --format overlay --out made")
    words = "make --from made --caption-column txt --out out"
    return Refused(words, "--caption-column", "it stands beside --from", "leave out --caption-column")
