"""Groups in a JSON file that holds an object instead of lists."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.json", b'{"0": [1]}', end=b"")
    return Refused(
        "make --source src --flip 0.5 --mode within --groups odd.json", "--groups", "groups as a list of non-empty lists of classes", "mend"
    )
