"""Blocks filled up with whatever stood in the writer's memory."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import BLOCK, JPG, ReadRight, member, pack, row


def build(folder: Path) -> ReadRight:
    def odd(name: str, content: bytes) -> bytes:
        return member(name, content)[:BLOCK] + content + b"\xaa" * (BLOCK - len(content))

    pack(folder / "src" / "a.tar", odd("a.jpg", JPG), odd("a.txt", b"one"), odd("b.jpg", JPG), odd("b.txt", b"two and more"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two and more")])
