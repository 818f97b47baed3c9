"""Members such as __meta__, which webdataset keeps for itself, among the samples."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, member, pack, row, sample


def build(folder: Path) -> ReadRight:
    note = member("__meta__", b"made by hand")
    pack(
        folder / "src" / "a.tar",
        note,
        sample("a", txt=b"one"),
        member("__done.txt__", b""),
        sample("b", txt=b"two"),
        member("README", b"no suffix"),
    )
    return ReadRight("--source src --swap 1 --of eligible", [row("a", caption="one"), row("b", caption="two")])
