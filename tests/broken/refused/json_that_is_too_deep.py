"""A .json nested a hundred thousand deep, where the label should stand."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    deep = b'{"label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    pack(folder / "src" / "a.tar", sample("a", json=b'{"label": 0}'), sample("b", json=deep))
    return Refused("make --source src --flip 0.5", "src/a.tar", "a .json member that cannot be read", "mend the sample", key="b")
