"""The ._ files and .DS_Store that macOS packs beside every file."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, ReadRight, member, pack, row


def build(folder: Path) -> ReadRight:
    def odd(key: str, caption: bytes) -> bytes:
        pairs = [(f"{key}.jpg", JPG), (f"{key}.txt", caption)]
        return b"".join(member(f"._{name}", b"Mac OS X") + member(name, content) for name, content in pairs)

    pack(folder / "src" / "a.tar", member(".DS_Store", b"Bud1"), odd("a", b"one"), odd("b", b"two"), member("x/._c.txt", b"Mac OS X"))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two")])
