"""A table of texts in Parquet with a text that is not UTF-8."""

from __future__ import annotations

from pathlib import Path

from tests.broken.inputs import Refused, pack_good, table, texts


def build(folder: Path) -> Refused:
    pack_good(folder / "src" / "a.tar")
    table(folder / "texts.parquet", key=["a0"], level=[1], text=texts(b"\xff"))
    return Refused(
        "make --source src --rewrite 1 --table texts.parquet", "--table", "found a column 'text' that cannot be used", "mend the table"
    )
