"""A target in which a variant of another seed is finished."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    run("make --source src --swap 0.5 --seed 1 --out v")
    return Refused(
        "make --source src --swap 0.5 --out v", "v", "it holds another variant: '1'", "choose another --out", key="identity.recipe.seed"
    )
