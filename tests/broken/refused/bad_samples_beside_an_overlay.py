"""What to do with bad samples, beside an overlay that says it."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, run


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "0.tar")
    run("make --source src --swap 1 --format overlay --out made")
    return Refused("make --from made --bad refuse --out out", "--bad", "it stands beside --from", "leave out --bad")
