"""A source whose URL is signed: the signature is a secret."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused


def build(_: Path) -> Refused:
    return Refused(
        "make --source https://example.org/a.tar?X-Amz-Signature=secret --swap 0.5",
        "https://example.org/a.tar",
        "a URL with a user, a query or a fragment",
        "leave credentials in the standard places",
    )
