"""Drawings as pixels."""

from __future__ import annotations

from typing import Any

from corruptkit.errors import CatalogError, Problem


def check_size(source: str, size: int) -> None:
    if not 8 <= size <= 1024:
        raise CatalogError(Problem(source, f"found size {size}", "a number of pixels from 8 to 1024"))


def render_svg(renderer: Any, svg: str, size: int) -> bytes:
    """A drawing as a PNG of `size` pixels, on white, by resvg-py."""
    # The drawings hold no text, so fonts of this machine must not even be looked for.
    return bytes(renderer.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True))
