"""An _info.json whose split has a name that leads out of the target."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "src" / "_info.json", b'{"splits": {"../../evil": {"filenames": ["a.tar"]}}}', end=b"")
    words = "make --source src --swap 1 --format parquet --out deep/out"
    return Refused(words, "src/_info.json", "the split '../../evil'", "name the split otherwise")
