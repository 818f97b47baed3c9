"""A pattern that matches no variant of the catalog."""

from __future__ import annotations

from pathlib import Path

from corruptkit.catalog import find_catalog
from tests.broken.inputs import Refused


def build(folder: Path) -> Refused:
    folder.joinpath("src").mkdir()
    return Refused("make --variant cc3m/swop-*", str(find_catalog()), "unknown variant 'cc3m/swop-*'", "did you mean 'cc3m/swap-")
