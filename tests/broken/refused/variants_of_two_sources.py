"""A pattern that matches variants of two sources of the catalog."""

from __future__ import annotations

from pathlib import Path

from corruptkit.catalog import find_catalog
from tests.broken.inputs import Refused


def build(folder: Path) -> Refused:
    folder.joinpath("src").mkdir()
    return Refused("make --variant cc*m/swap-0.05-s0", str(find_catalog()), "matches variants of 2 sources: cc12m, cc3m", "write cc12m/...")
