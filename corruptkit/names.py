"""Names of variants and splits in the places that have rules of their own; SOURCE/KIND[-MODE]-RATIO-sSEED is the catalog's."""

from __future__ import annotations


def folder_name(variant: str) -> str:
    """The folder that a variant is written to where nothing else is said: cc3m-swap-0.05-s0 for cc3m/swap-0.05-s0."""
    return variant.replace("/", "-")


def hub_name(name: str) -> str:
    """A split or a variant as `datasets` can name it, whose names have no hyphens: swap_0.05_s0 for swap-0.05-s0."""
    return name.replace("-", "_")
