"""One way to obtain each source that anyone may have; importing this package imports none of them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from corruptkit.errors import CatalogError, Problem, nearest_word
from corruptkit.files import local_path

FETCHERS = {
    "avatars": "corruptkit.fetching.avatars:fetch_avatars",
    "emoji": "corruptkit.fetching.emoji:fetch_emoji",
    "fashion-mnist": "corruptkit.fetching.fashion:fetch_fashion",
    "openclipart": "corruptkit.fetching.openclipart:fetch_openclipart",
    "openmoji": "corruptkit.fetching.openmoji:fetch_openmoji",
}
DOWNLOADING = ("emoji", "fashion-mnist", "openclipart")  # the others are made of installed packages


def fetch(name: str, out: Path, *, given: Path | None = None, **options: Any) -> Path:
    """Obtain a source into the folder `out` and return it; a folder that is already complete is left as it is.

    `given` is a folder that holds what would be downloaded.
    """
    if name not in FETCHERS:
        raise CatalogError(Problem("fetch", f"unknown source '{name}'", do=nearest_word(name, FETCHERS)))
    if given is not None:
        if name not in DOWNLOADING:
            raise CatalogError(Problem("--from", f"{name} downloads nothing", f"one of: {', '.join(DOWNLOADING)}", "leave --from out"))
        options["given"] = given
    module, function = FETCHERS[name].split(":")
    path: Path = getattr(import_module(module), function)(local_path(out), **options)
    return path
