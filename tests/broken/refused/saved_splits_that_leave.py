"""A dataset_dict.json that names a folder beside its own."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, table


def build(folder: Path) -> Refused:
    table(folder / "evil" / "a.arrow", key=["a", "b"], caption=["one", "two"])
    pack(folder / "src" / "dataset_dict.json", b'{"splits": ["../evil"]}', end=b"")
    return Refused("make --source src --swap 1", "src/dataset_dict.json", "the split '../evil'", "name the split otherwise")
