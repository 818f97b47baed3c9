"""A Parquet file whose end is sound and whose captions are not."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tests.broken.inputs import Refused, table


def build(folder: Path) -> Refused:
    whole = table(folder / "src" / "a.parquet", key=["a", "b"], caption=["one", "two"])
    content = whole.read_bytes()
    pages = pq.read_metadata(whole).row_group(0).column(1)
    begin = pages.dictionary_page_offset
    whole.write_bytes(content[:begin] + b"\xff" * pages.total_compressed_size + content[begin + pages.total_compressed_size :])
    return Refused("make --source src --swap 0.5", "src/a.parquet", "it cannot be read", "fetch or write the shard anew")
