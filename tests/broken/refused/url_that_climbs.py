"""A source whose URL leads up."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused("make --source s3://bucket/../other --swap 0.5", "s3://bucket/../other", "the URL of no folder or file", "mend the URL")
