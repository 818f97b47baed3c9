"""A table of texts with a tabulator in a key."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", b'{"key": "a\\t0", "level": 1, "text": "x"}\n', end=b"")
    return Refused("make --source src --rewrite 1 --table texts.jsonl", "--table", "found 'a\\t0' as a key", "mend")
