"""A source that names a scheme alone."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused("make --source s3:// --swap 0.5", "s3://", "the URL of no folder or file", "mend the URL")
