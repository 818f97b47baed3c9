"""Labels between white space, line ends and a byte order mark, as Windows writes them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample


def build(folder: Path) -> ReadRight:
    pack(folder / "src" / "a.tar", sample("a", cls=b"\xef\xbb\xbf 3\r\n"), sample("b", cls=b"\t\v\f0\n\n"))
    return ReadRight("--source src --flip 1 --of eligible", [row("a", label=3), row("b", label=0)])
