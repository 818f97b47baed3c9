"""A tar whose last blocks are missing, as a writer leaves it that was killed."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"two"), end=b"")
    return Refused(
        "make --source src --swap 0.5", "src/a.tar", "the archive ends at byte 4096 without an end marker", "fetch or pack the shard anew"
    )
