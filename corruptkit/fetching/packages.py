"""Modules of PyPI packages whose exact versions decide the bytes that a fetch writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from corruptkit.errors import DatasetError, Problem


def load_modules(source: str, pinned: Mapping[str, str], modules: Sequence[str], extra: str) -> tuple[dict[str, str], list[Any]]:
    """The installed versions of packages and their modules. Raises DatasetError, which names the extra that brings them."""
    try:
        return {name: version(name) for name in pinned}, [import_module(name) for name in modules]
    except ImportError as error:
        found = f"the package '{error.name}' is not installed or not whole"
        raise DatasetError(Problem(source, found, ", ".join(pinned), f"pip install 'corruptkit[{extra}]'")) from None


def other_versions(pinned: Mapping[str, str], versions: Mapping[str, str]) -> list[str]:
    """A warning for each package that is not the one whose bytes are published."""
    return [f"{name} is not {pinned[name]}: the bytes may differ" for name in pinned if versions[name] != pinned[name]]
