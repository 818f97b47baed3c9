"""A class whose number Python would not read as an integer."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "odd.json", b"[[0, 1], [2, %s]]" % (b"9" * 5000), end=b"")
    words = "make --source src --flip 0.5 --mode within --groups odd.json"
    return Refused(words, "--groups", "an integer of 5000 characters", "mend")
