"""Sizes as octal numbers between spaces, as early tars wrote them."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import BLOCK, JPG, ReadRight, forge, member, pack, pad, row


def build(folder: Path) -> ReadRight:
    def odd(name: str, content: bytes) -> bytes:
        return forge(member(name, content)[:BLOCK], 124, b"%11o " % len(content)) + pad(content)

    pack(folder / "src" / "a.tar", odd("a.jpg", JPG), odd("a.txt", b"a short one"), odd("b.jpg", JPG), odd("b.txt", b"a long one " * 99))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="a short one"), row("b", caption="a long one " * 99)])
