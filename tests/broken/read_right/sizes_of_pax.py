"""Sizes that stand in pax headers alone, as of files of more than 8 GiB."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import BLOCK, JPG, ReadRight, forge, member, pack, pad, row


def build(folder: Path) -> ReadRight:
    def odd(name: str, content: bytes) -> bytes:
        whole = member(name, content, form=tarfile.PAX_FORMAT, pax={"size": str(len(content)), "comment": "kept"})
        header = len(whole) - len(pad(content)) - BLOCK
        return whole[:header] + forge(whole[header : header + BLOCK], 124, b"00000000000\0") + pad(content)

    pack(folder / "src" / "a.tar", odd("a.jpg", JPG), odd("a.txt", b"a short one"), odd("b.jpg", JPG), odd("b.txt", b"a long one " * 99))
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="a short one"), row("b", caption="a long one " * 99)])
