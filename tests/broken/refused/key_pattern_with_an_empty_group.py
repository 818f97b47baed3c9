"""A pattern of keys whose group holds nothing in one sample."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack, sample


def build(folder: Path) -> Refused:
    pack(folder / "src" / "0.tar", sample("img_1", txt=b"one"), sample("img_", txt=b"two"))
    words = "make --source src --swap 1 --key regex:img_(.*)"
    return Refused(words, "src/0.tar", "an empty group of 'img_(.*)'", "mend the --key rule", key="img_")
