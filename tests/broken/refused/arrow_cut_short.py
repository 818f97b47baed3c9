"""An Arrow stream that stops in the middle of its rows."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    whole = table(folder / "src" / "a.arrow", key=["a", "b"], caption=["one", "two"])
    whole.write_bytes(whole.read_bytes()[:-40])
    return Refused("make --source src --swap 0.5", "src/a.arrow", "it cannot be read", "fetch or write the shard anew")
