"""A table of texts for one of the four rows that need one."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", *(b'{"key": "a0", "level": %d, "text": "x"}\n' % level for level in range(1, 6)), end=b"")
    return Refused(
        "make --source src --rewrite 1 --table texts.jsonl",
        "--rewrite",
        "3 of 4 chosen rows have no text in the table, first",
        "make them with: python pipelines/rewrite_captions.py SOURCE --ratio 1 --seed 0 --levels 5 --table FILE",
        key="chain.0",
    )
