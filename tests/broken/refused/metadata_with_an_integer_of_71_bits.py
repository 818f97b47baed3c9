"""A metadata.jsonl with an integer that no column can hold."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    lines = b'{"file_name": "a.jpg", "text": "one"}\n{"file_name": "b.jpg", "text": "two", "id": 1180591620717411303424}\n'
    pack(folder / "src" / "metadata.jsonl", lines, end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.jsonl", "an integer beyond 64 bits", "--bad exclude", key="b")
