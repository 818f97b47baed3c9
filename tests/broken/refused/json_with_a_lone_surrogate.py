"""A .json whose caption holds half a surrogate pair, which is no text."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", json=b'{"caption": "one"}'), sample("b", json=rb'{"caption": "\ud83d"}'))
    return Refused("make --source src --swap 0.5", "src/a.tar", "a caption with a lone surrogate", "mend the sample", key="b")
