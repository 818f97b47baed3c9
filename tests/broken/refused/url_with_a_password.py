"""A source whose URL holds a password."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused(
        "make --source https://user:secret@example.org/a.tar --swap 0.5",
        "https://example.org/a.tar",
        "a URL with a user, a query or a fragment",
        "leave credentials in the standard places",
    )
