"""The list of a source's samples that are no rows: excluded.parquet. FORMAT.md section 3b."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corruptkit.errors import IntegrityError, Problem

NAME = ".corruptkit/excluded.parquet"
_COLUMNS = {"shard": pa.string(), "position": pa.int64(), "key": pa.string(), "reason": pa.string()}
_SCHEMA = pa.schema([pa.field(name, kind, nullable=False) for name, kind in _COLUMNS.items()])


def write_excluded(excluded: pa.Table, shards: Sequence[str], out: BinaryIO) -> None:
    """Write excluded samples, with the names of their shards (numbered in `excluded`)."""
    names = pa.array(shards, pa.string()).take(excluded["shard"])
    table = excluded.set_column(0, "shard", names).cast(_SCHEMA)
    pq.write_table(table, out, compression="zstd")


def read_excluded(folder: Path, shards: Sequence[str]) -> pa.Table:
    """The excluded samples that a variant lists, with the numbers of their shards."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False).cast(_SCHEMA)
        table.validate(full=True)  # texts that are no UTF-8 among others
    except (OSError, pa.ArrowException, ValueError) as error:
        raise _unfit(path, f"it cannot be read: {str(error).splitlines()[0]:.100}") from None
    numbers = pc.index_in(table["shard"], value_set=pa.array(shards, pa.string()))
    if numbers.null_count or not pc.all(pc.greater_equal(table["position"], 0), min_count=0).as_py():
        raise _unfit(path, "samples of shards that the manifest does not list")
    columns = [numbers, table["position"], table["key"].cast(pa.large_string()), table["reason"].cast(pa.large_string())]
    return pa.table(columns, names=list(_COLUMNS)).combine_chunks()


def _unfit(path: Path, found: str) -> IntegrityError:
    return IntegrityError(Problem(str(path), found, "excluded samples as FORMAT.md describes them", "do not use it"))
