"""Captions and labels in a .json with escapes, a byte order mark and odd white space."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    first = b'\xef\xbb\xbf { "caption" :\t"\\u00e9t\\u00e9 \\ud83d\\ude00\\n\\"", "label": "03" }\n'
    second = '{"label": 0, "other": [1, {"caption": "not this"}], "caption": "日本"}'.encode()
    pack(folder / "src" / "a.tar", sample("a", json=first), sample("b", json=second))
    rows = [row("a", label=3, caption='\u00e9t\u00e9 \N{GRINNING FACE}\n"', json=first), row("b", label=0, caption="日本", json=second)]
    return ReadRight("--source src --swap 1 --of eligible", rows)
