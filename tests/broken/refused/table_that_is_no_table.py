"""A table of texts that is a list of words."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, pack_good


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    pack(folder / "texts.jsonl", b"a cat\na dog\n", end=b"")
    return Refused(
        "make --source src --rewrite 1 --table texts.jsonl",
        "--table",
        "is not JSON lines with the fields key, level and text",
        "mend the file",
    )
