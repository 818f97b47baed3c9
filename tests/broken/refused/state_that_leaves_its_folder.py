"""A state.json that lists a file of another folder."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, table


def build(folder: Path) -> Refused:
    table(folder / "src" / "a.arrow", key=["a", "b"], caption=["one", "two"])
    pack(folder / "src" / "state.json", b'{"_data_files": [{"filename": "../a.arrow"}]}', end=b"")
    return Refused("make --source src --swap 0.5", "src/state.json", "it does not list the shards of this folder", "mend it or remove it")
