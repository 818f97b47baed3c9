"""A metadata.jsonl with blank lines, nulls, escapes and images in folders."""

from __future__ import annotations

import json
from pathlib import Path

from tests.broken.inputs import ReadRight, images, pack, row


def build(folder: Path) -> ReadRight:
    images(folder / "src", "x/a.jpg", "x/y/a.jpg")
    lines = [{"file_name": "x/a.jpg", "text": "\u00e9t\u00e9 \N{GRINNING FACE}", "note": None}, {"file_name": "x/y/a.jpg", "text": ""}]
    pack(folder / "src" / "metadata.jsonl", "\n\n".join(map(json.dumps, lines)).encode(), end=b"\n\n")
    return ReadRight(
        "--source src --swap 1 --of eligible", [row("x/a", caption="\u00e9t\u00e9 \N{GRINNING FACE}"), row("x/y/a", caption="")]
    )
