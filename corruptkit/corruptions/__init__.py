"""The kinds of corruption: frozen models that say which rows change and to what. This union is the registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from corruptkit.corruptions.captions import Swap
from corruptkit.corruptions.labels import Flip
from corruptkit.corruptions.rows import Decision, Rows

Corruption = Annotated[Flip | Swap, Field(discriminator="kind")]
KINDS: dict[str, type[Flip | Swap]] = {"flip": Flip, "swap": Swap}

__all__ = ["KINDS", "Corruption", "Decision", "Flip", "Rows", "Swap"]
