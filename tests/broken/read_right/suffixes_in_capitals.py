"""Suffixes in capitals, as cameras and Windows write them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, ReadRight, member, pack, row


def build(folder: Path) -> ReadRight:
    pieces = [
        member(f"{key}.{suffix}", content)
        for key, label in (("A", b"0"), ("a", b"1"))
        for suffix, content in (("JPG", JPG), ("Cls", label), ("TXT", key.encode()))
    ]
    pack(folder / "src" / "a.tar", *pieces)
    return ReadRight("--source src --flip 1 --of eligible", [row("A", label=0, caption="A"), row("a", label=1, caption="a")])
