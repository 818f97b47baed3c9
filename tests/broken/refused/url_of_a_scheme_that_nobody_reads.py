"""A source under a scheme that fsspec does not know."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused("make --source nothing://bucket/a.tar --swap 0.5", "nothing://bucket/a.tar", "nothing reads nothing://", "mend the URL")
