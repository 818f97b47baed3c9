"""A member .caption beside the .txt that holds the caption: another format has room for one."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "0.tar", *(sample(key, txt=key.encode(), caption=b"x") for key in "ab"))
    words = "make --source src --swap 1 --format parquet"
    return Refused(words, "src/0.tar", "a column 'caption' beside the caption of the rows", "rename it")
