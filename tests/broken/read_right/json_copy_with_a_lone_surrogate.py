"""A .json whose caption is no text beside the .txt that is the caption: the copy is replaced, whatever it is."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import ReadRight, pack, row, sample

_COPY = rb'{"caption":"\ud800 x"}'


def build(folder: Path) -> ReadRight:
    members = {"txt": b"one", "json": _COPY}, {"txt": b"two", "cls": b"1", "json": _COPY}
    pack(folder / "src" / "a.tar", *(sample(f"{i}", **parts) for i, parts in enumerate(members)))
    rows = [row("0", caption="one", json=_COPY), row("1", caption="two", label=1, json=_COPY)]
    return ReadRight("--source src --swap 1", rows)
