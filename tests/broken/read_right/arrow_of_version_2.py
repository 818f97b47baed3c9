"""An Arrow file, where save_to_disk writes a stream."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import ReadRight, table


def build(folder: Path) -> ReadRight:
    whole = table(folder / "src" / "a.arrow", key=["a", "b"], caption=["one", "two"])
    content = pa.ipc.open_stream(whole.read_bytes()).read_all()
    with pa.ipc.new_file(whole, content.schema) as file:
        file.write_table(content)
    return ReadRight("--source src --swap 1 --of eligible", [{"key": "a", "caption": "one"}, {"key": "b", "caption": "two"}])
