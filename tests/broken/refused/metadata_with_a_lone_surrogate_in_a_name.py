"""A metadata.jsonl with half a surrogate pair in a column's name."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    lines = b'{"file_name": "a.jpg", "text": "one"}\n{"file_name": "b.jpg", "text": "two", "\\ud800": 1}\n'
    pack(folder / "src" / "metadata.jsonl", lines, end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.jsonl", "a lone surrogate", "--bad exclude", key="b")
