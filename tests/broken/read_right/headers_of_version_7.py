"""Headers of 1979, which have no magic, no owner's name and no type."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import BLOCK, JPG, ReadRight, forge, member, pack, pad, row


def build(folder: Path) -> ReadRight:
    def old(name: str, content: bytes) -> bytes:
        return forge(member(name, content)[:BLOCK], 156, bytes(BLOCK - 156)) + pad(content)

    pack(folder / "src" / "a.tar", old("a.jpg", JPG), old("a.txt", b"one"), old("b.jpg", JPG), old("b.txt", b"two and more"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two and more")])
