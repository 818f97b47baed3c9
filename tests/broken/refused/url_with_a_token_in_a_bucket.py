"""An object whose URL holds a token."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused(
        "make --source s3://bucket/a.tar?token=secret --swap 0.5",
        "s3://bucket/a.tar",
        "a URL with a user, a query or a fragment",
        "leave credentials in the standard places",
    )
