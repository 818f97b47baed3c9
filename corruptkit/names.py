"""Names of variants and splits in the places that have rules of their own; SOURCE/KIND[-MODE]-RATIO-sSEED is the catalog's."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def folder_name(variant: str) -> str:
    """The folder that a variant is written to where nothing else is said: cc3m-swap-0.05-s0 for cc3m/swap-0.05-s0."""
    return variant.replace("/", "-")


def hub_name(name: str) -> str:
    """A split or a variant as `datasets` can name it, whose names have no hyphens: swap_0.05_s0 for swap-0.05-s0."""
    return name.replace("-", "_")


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a shell-style pattern matches; one may be written as the Hub writes it."""
    return [name for name in names if fnmatchcase(name, pattern) or hub_name(name) == pattern]
