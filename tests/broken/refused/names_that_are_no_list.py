"""Class names in a JSON file that holds an object."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "names.json", b'{"0": "cat"}', end=b"")
    return Refused(
        "make --source src --constant 0.5 --mode template --text {} --names names.json", "--names", "names as a list of texts", "mend"
    )
