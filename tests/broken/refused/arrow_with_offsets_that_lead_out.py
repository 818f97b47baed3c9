"""An Arrow stream whose captions begin and end beyond their text."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    whole = table(folder / "src" / "a.arrow", key=["a", "b"], caption=["one", "two"])
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 3, 6))
    wrong = b"".join(number.to_bytes(4, "little") for number in (0, 3, 1 << 30))
    whole.write_bytes(whole.read_bytes().replace(offsets, wrong))
    return Refused("make --source src --swap 0.5", "src/a.arrow", "it cannot be read", "fetch or write the shard anew")
