"""A table of texts with half of a pair of surrogates."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", b'{"key": "a0", "level": 1, "text": "\\ud800"}\n', end=b"")
    return Refused("make --source src --rewrite 1 --table texts.jsonl", "--table", "surrogate pair", "mend the file")
