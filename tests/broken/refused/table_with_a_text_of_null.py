"""A table of texts in which a text is null."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", b'{"key": "a0", "level": 1, "text": null}\n', end=b"")
    return Refused("make --source src --rewrite 1 --table texts.jsonl", "--table", "found 1 rows of the table without a text", "mend")
