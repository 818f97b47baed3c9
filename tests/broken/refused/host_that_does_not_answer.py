"""A source on a host that cannot be reached."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused(
        "make --source http://127.0.0.1:9/a.tar --swap 0.5",
        "http://127.0.0.1:9/a.tar",
        "its host cannot be reached",
        "mend the URL or the network",
    )
