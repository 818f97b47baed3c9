"""The overlay: a plan on disk, one Parquet row an edit, applied while the source is read. FORMAT.md section 3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corruptkit.errors import IntegrityError, Problem

_TEXT = pa.large_string()
# Ascending (key bytes, stage), no nulls; in the file a text is a plain string.
EDITS = pa.schema(
    [
        ("key", _TEXT),
        ("shard", _TEXT),
        ("stage", pa.int32()),
        ("kind", _TEXT),
        ("field", _TEXT),
        ("old", _TEXT),
        ("new", _TEXT),
        ("donor", _TEXT),
        ("rank", pa.int64()),
    ]
)
_ON_DISK = pa.schema([pa.field(f.name, pa.string() if f.type == _TEXT else f.type, nullable=False) for f in EDITS])
_LABEL = r"\A(?:0|[1-9][0-9]{0,17})\z"
_GROUP = 1 << 17
_GROUP_BYTES = 1 << 30
_LEVEL = 3  # of zstd: a tenth smaller than 1, the default, for a tenth of a second; 6 takes twice as long for 3 %
_REPEATING = ["shard", "stage", "kind", "field"]
_ENCODINGS = {"key": "DELTA_BYTE_ARRAY", "donor": "DELTA_BYTE_ARRAY", "rank": "DELTA_BINARY_PACKED"}
_VARIED = "DELTA_LENGTH_BYTE_ARRAY"  # texts one after another, their lengths apart: zstd finds more in either


def write_edits(edits: pa.Table, out: BinaryIO) -> None:
    """Write edits; the bytes depend on nothing but the edits and the version of pyarrow."""
    varied = {name: _VARIED for name in ("old", "new") if not _repeats(edits[name])}
    options = {
        "compression": "zstd",
        "compression_level": _LEVEL,
        "use_dictionary": _REPEATING + [name for name in ("old", "new") if name not in varied],
        "column_encoding": _ENCODINGS | varied,
        "write_statistics": ["key"],
        "store_schema": False,  # Arrow's own description of the columns, a kilobyte that says nothing new
    }
    with pq.ParquetWriter(out, _ON_DISK, **options) as writer:
        for part in _split_groups(edits):
            writer.write_table(part.cast(_ON_DISK), row_group_size=_GROUP)


def _repeats(values: pa.ChunkedArray) -> bool:
    """Whether a dictionary is the shorter way to write these values, by the first of them: labels, or captions that many rows share."""
    first = values[:_GROUP]
    return bool(2 * pc.count_distinct(first).as_py() <= len(first))


def _split_groups(edits: pa.Table) -> Iterator[pa.Table]:
    """Row groups whose texts fit 32-bit offsets; each is a copy, since a slice keeps the offsets of the whole."""
    for start in range(0, max(edits.num_rows, 1), _GROUP):
        parts = [edits.slice(start, _GROUP)]
        while parts:
            part = parts.pop()
            if part.nbytes > _GROUP_BYTES and len(part) > 1:
                parts += [part.slice(len(part) // 2), part.slice(0, len(part) // 2)]
            else:
                yield part.take(pa.array(np.arange(len(part))))


def read_edits(path: Path) -> pa.Table:
    """Read edits that somebody else wrote: refused unless they are what FORMAT.md says, in its order."""
    try:
        with path.open("rb") as file:
            # Threads that read ahead can outlive the interpreter and abort it at exit.
            table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
        table.validate(full=True)  # texts that are no UTF-8 among others
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: of a name that is no UTF-8
        raise _unfit(path, f"it cannot be read: {str(error).splitlines()[0]:.100}") from None
    if table.column_names != EDITS.names:
        raise _unfit(path, f"the columns {table.column_names}")
    for field in EDITS:
        found = table.schema.field(field.name).type
        if found != field.type and (field.type != _TEXT or found != pa.string()):
            raise _unfit(path, f"the type {found} of {field.name}")
    edits = table.cast(EDITS).combine_chunks()
    _check_values(edits, path)
    return edits


def _check_values(edits: pa.Table, path: Path) -> None:
    if any(column.null_count for column in edits.columns):
        raise _unfit(path, "nulls")
    if not _ascends(edits):
        raise _unfit(path, "edits out of order, or twice")
    fields = set(pc.unique(edits["field"]).to_pylist())
    if fields - {"label", "caption"}:
        raise _unfit(path, f"the fields {sorted(fields)}")
    stages = edits["stage"].to_numpy()
    if ((stages < 0) | (stages > 255)).any():
        raise _unfit(path, f"the stages {stages.min()} to {stages.max()}")
    labels = edits.filter(pc.equal(edits["field"], "label"))
    for name in ("old", "new"):
        if not pc.all(pc.match_substring_regex(labels[name], _LABEL), min_count=0).as_py():
            raise _unfit(path, f"a label in {name} that is no decimal")


def _ascends(edits: pa.Table) -> bool:
    if edits.num_rows < 2:
        return True
    keys, stages = edits["key"].chunk(0), edits["stage"].to_numpy()
    later = np.asarray(pc.greater(keys[1:], keys[:-1]))
    same = np.asarray(pc.equal(keys[1:], keys[:-1]))
    return bool((later | (same & (stages[1:] > stages[:-1]))).all())


def _unfit(path: Path, found: str) -> IntegrityError:
    return IntegrityError(Problem(str(path), found, "a plan as FORMAT.md describes it", "do not use it"))
