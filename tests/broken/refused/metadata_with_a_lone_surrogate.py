"""A metadata.jsonl with half a surrogate pair in a caption."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, images, pack


def build(folder: Path) -> Refused:
    images(folder / "src", "a.jpg", "b.jpg")
    pack(folder / "src" / "metadata.jsonl", b'{"file_name": "a.jpg", "text": "one"}\n{"file_name": "b.jpg", "text": "\\ud83d"}\n', end=b"")
    return Refused("make --source src --swap 0.5", "src/metadata.jsonl", "the caption '", "mend the metadata file", key="b")
