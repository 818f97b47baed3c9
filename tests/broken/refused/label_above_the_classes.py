"""A label that is not below the number of classes that was stated."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", cls=b"0"), sample("b", cls=b"3"))
    return Refused(
        "make --source src --flip 0.5 --classes 3", "src/a.tar", "label 3", "state the right --classes or mend the label", key="b"
    )
