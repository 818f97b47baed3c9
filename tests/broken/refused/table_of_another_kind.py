"""A table of texts beside a kind that takes none."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", b"", end=b"")
    return Refused("make --source src --swap 0.5 --table texts.jsonl", "--table", "unknown field 'table'", "valid are: ")
