"""A state.json whose split has a name that leads out of the target."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.arrow", key=["a", "b"], caption=["one", "two"])
    pack(folder / "src" / "state.json", b'{"_data_files": [{"filename": "a.arrow"}], "_split": "../evil2"}', end=b"")
    words = "make --source src --swap 1 --format webdataset --out deep/out"
    return Refused(words, "src/state.json", "the split '../evil2'", "name the split otherwise")
