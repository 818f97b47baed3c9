"""One way to obtain each source that anyone may have; importing this package imports none of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from corruptkit.errors import CatalogError, Problem, nearest_word
from corruptkit.files import local_path

FETCHERS = {"openmoji": "corruptkit.fetching.openmoji:fetch_openmoji"}


def fetch(name: str, out: Path, **options: Any) -> Path:
    """Obtain a source into the folder `out` and return it; a folder that is already complete is left as it is."""
    if name not in FETCHERS:
        raise CatalogError(Problem("fetch", f"unknown source '{name}'", do=nearest_word(name, FETCHERS)))
    module, function = FETCHERS[name].split(":")
    path: Path = getattr(import_module(module), function)(local_path(out), **options)
    return path
