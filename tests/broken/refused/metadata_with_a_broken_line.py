"""A metadata.jsonl with a line that is cut short."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.jsonl", b'{"file_name": "a.jpg", "text": "one"}\n{"file_name": "b.jp', end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.jsonl", "line 2 is no JSON object", "mend the file")
