"""The path of an image in Latin-1, where the keys come from the paths."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tests.broken.inputs import JPG, Refused, table, texts


def build(folder: Path) -> Refused:
    image = pa.StructArray.from_arrays([pa.array([JPG, JPG]), texts(b"a.jpg", b"\xe9t\xe9.jpg")], ["bytes", "path"])
    table(folder / "src" / "a.parquet", image=image, caption=["one", "two"])
    return Refused(
        "make --source src --swap 0.5", "src/a.parquet", "not UTF-8", "mend the row, or leave such rows out with --bad exclude", key="row 1"
    )
