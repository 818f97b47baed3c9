"""The kinds of corruption: frozen models that say which rows change and to what. This union is the registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from corruptkit.corruptions.captions import Swap
from corruptkit.corruptions.constants import Constant, Drop
from corruptkit.corruptions.labels import Flip
from corruptkit.corruptions.rewrites import Rewrite
from corruptkit.corruptions.rows import Decision, Rows
from corruptkit.corruptions.words import Words

Corruption = Annotated[Flip | Swap | Drop | Constant | Words | Rewrite, Field(discriminator="kind")]
KINDS: dict[str, type[Flip | Swap | Drop | Constant | Words | Rewrite]] = {
    "flip": Flip,
    "swap": Swap,
    "drop": Drop,
    "constant": Constant,
    "words": Words,
    "rewrite": Rewrite,
}

__all__ = ["KINDS", "Constant", "Corruption", "Decision", "Drop", "Flip", "Rewrite", "Rows", "Swap", "Words"]
