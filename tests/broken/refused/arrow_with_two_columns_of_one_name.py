"""Two columns of one name, of which nobody can say which is meant."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import Refused


def build(folder: Path) -> Refused:
    (folder / "src").mkdir()
    content = pa.table([["a"], ["one"], ["two"]], names=["key", "caption", "caption"])
    with pa.ipc.new_stream(folder / "src" / "0.arrow", content.schema) as stream:
        stream.write_table(content)
    return Refused("make --source src --swap 1", "src/0.arrow", "two columns 'caption'", "rename one of them")
