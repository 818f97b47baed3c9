"""A table of texts that says two things of one key and level."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", b'{"key": "a0", "level": 1, "text": "x"}\n{"key": "a0", "level": 1, "text": "y"}\n', end=b"")
    return Refused("make --source src --rewrite 1 --table texts.jsonl", "--table", "found 'a0' at level 1 twice", "mend")
