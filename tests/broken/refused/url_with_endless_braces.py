"""Braces that stand for more names than there are shards."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused(
        "make --source http://127.0.0.1:9/{0..999999}{0..999999}.tar --swap 0.5",
        "http://127.0.0.1:9/{0..999999}{0..999999}.tar",
        "braces that stand for 1,000,000,000,000 names",
        "mend the pattern",
    )
