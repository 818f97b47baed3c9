"""Names of more than a hundred bytes, in GNU tar's own headers."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.broken.inputs import JPG, ReadRight, member, pack, row


def build(folder: Path) -> ReadRight:
    keys = [f"{letter * 80}/{letter * 90}" for letter in "ab"]
    members = [
        member(f"{key}.{suffix}", content, form=tarfile.GNU_FORMAT)
        for key in keys
        for suffix, content in (("jpg", JPG), ("txt", key[:1].encode()))
    ]
    pack(folder / "src" / "a.tar", *members)
    return ReadRight("--source src --swap 1 --of eligible", [row(key, caption=key[:1]) for key in keys])
