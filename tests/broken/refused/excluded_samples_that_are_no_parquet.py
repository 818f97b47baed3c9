"""A variant whose list of excluded samples is not the one that was written."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, run, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "a.tar", sample("a", txt=b"one"), sample("b", txt=b"\xff"), sample("c", txt=b"two"))
    run("make --source src --swap 1 --bad exclude --out v")
    pack(folder / "v" / ".corruptkit" / "excluded.parquet", b"<html>Not Found</html>", end=b"")
    return Refused("make --source v --swap 0.5", "v/.corruptkit/excluded.parquet", "it cannot be read", "do not use it")
