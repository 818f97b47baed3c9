"""The caption of each sample before its image, and the other members between."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import JPG, ReadRight, member, pack, row


def build(folder: Path) -> ReadRight:
    def odd(key: str, caption: bytes) -> bytes:
        return b"".join(member(f"{key}.{suffix}", content) for suffix, content in (("txt", caption), ("npy", b"numbers"), ("jpg", JPG)))

    pack(folder / "src" / "a.tar", odd("a", b"one"), odd("b", b"two"))
    return ReadRight(
        "--source src --swap 1 --of eligible", [row("a", caption="one", npy=b"numbers"), row("b", caption="two", npy=b"numbers")]
    )
