"""Remote tars that a side-car lists: their index from img2dataset's Parquet, and where samples lie once somebody asks.

A side-car is believed where its columns, its counts and the tar's first sample agree. Where they do not, that is told, and the tar is read.
An edited row that holds another caption than the side-car says is refused when it is read.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from xxhash import xxh3_64

from corruptkit.errors import DatasetError
from corruptkit.formats import webdataset
from corruptkit.formats.conditions import Columns
from corruptkit.formats.keys import key_fault
from corruptkit.formats.layout import SCANNED, Scan, Shard, Spot, changed_source
from corruptkit.formats.sidecar import sidecar_of
from corruptkit.formats.webdataset import Sample

_TEXTS = (pa.string(), pa.large_string())
_DONE = "success"
_FIRST = 4096  # bytes asked for at once where a shard begins


class _UnprovedError(Exception):
    """Why a side-car does not say what the tar holds."""


def scan_shard(shard: Shard, *, exclude: bool = False) -> Scan:
    """A remote tar's rows of the index: of its side-car, where that proves them; else the tar is read from end to end."""
    path = sidecar_of(shard.file)
    note = ""
    if path is not None:
        try:
            return _scan_list(shard, path)
        except _UnprovedError as error:
            note = f"{path.name} beside it {error}"
    return webdataset.scan_shard(shard, exclude=exclude)._replace(note=note)


def _scan_list(shard: Shard, path: Path) -> Scan:
    names, captions = _read_list(shard, path)
    keys = _find_keys(shard, names)
    count, columns = len(names), shard.layout.columns
    parts: tuple[str, ...] = ()
    others, hidden = list[str](), list[str]()
    if count:
        sample = _check_first(shard, names[0], captions[0])
        parts, others = tuple(sample.parts), webdataset.other_suffixes(sample.parts, columns)
        hidden = webdataset.hidden_suffixes(parts, columns)
    digest = xxh3_64("\0".join([f"listed {parts}", *keys, *captions]).encode()).hexdigest()
    unknown = pa.array(np.full(count, -1))
    table = pa.table(
        [
            pa.array(keys, pa.large_string()),
            pa.array(np.arange(count)),
            unknown,  # where the sample lies: a side-car does not say
            pa.array(np.zeros(count, np.int64)),
            unknown,
            pa.array(captions, pa.large_string()),
        ],
        schema=SCANNED,
    )
    return Scan(table, (), digest, tuple(sorted(others)), webdataset.shown_images([parts], columns), tuple(sorted(hidden)))


def _read_list(shard: Shard, path: Path) -> tuple[list[str], list[str]]:
    """Sample keys and captions of the rows that were fetched, in order; the tar's own caption is what img2dataset made of the column's."""
    layout = shard.layout
    if layout.columns != Columns(image=layout.columns.image) or layout.key_rule.startswith("json:") or shard.skip:
        raise _UnprovedError("does not hold what the flags name")
    try:
        with path.open("rb") as content:
            file = pq.ParquetFile(content, pre_buffer=False)
            kinds = file.schema_arrow
            if any(name not in kinds.names or kinds.field(name).type not in _TEXTS for name in ("key", "status", "caption")):
                raise _UnprovedError("has no key, status and caption as text")
            if "label" in kinds.names or "label" in layout.needed:
                raise _UnprovedError("does not say which labels the tar holds")
            table = file.read(columns=["key", "status", "caption"], use_threads=False)
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _UnprovedError(f"cannot be read: {str(error).splitlines()[0]:.60}") from None
    done = table.filter(pc.equal(table["status"], _DONE))
    if done["key"].null_count or pc.count_distinct(done["key"]).as_py() != len(done):
        raise _UnprovedError("does not name each sample once")
    _check_count(path, len(done))
    return done["key"].to_pylist(), pc.fill_null(done["caption"], "").to_pylist()


def _check_count(path: Path, count: int) -> None:
    """img2dataset counts in NAME_stats.json, last of all, what it put into the tar."""
    try:
        stated = json.loads(path.with_name(f"{path.stem}_stats.json").read_bytes())["successes"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        stated = None
    if stated != count:
        raise _UnprovedError(f"lists {count} samples, and {path.stem}_stats.json counts {stated!r:.20}")


def _find_keys(shard: Shard, names: list[str]) -> list[str]:
    keyer = webdataset.find_keyer(shard)
    keys = []
    for number, name in enumerate(names, shard.first_row):
        split = webdataset.split_name(f"{name}.jpg")
        key = keyer(name, shard.file.name, number) if split is not None and split[0] == name else None
        if not key or (not key.isalnum() and key_fault(key)):
            raise _UnprovedError(f"has a key that is none: {name!r:.40}")
        keys.append(key)
    return keys


def _check_first(shard: Shard, name: str, caption: str) -> Sample:
    """The first sample of the tar, which must be the first that the side-car lists, with its caption and without a label."""
    with webdataset.open_shard(shard.file, _FIRST) as (window, size):
        try:
            sample = next(webdataset.group_samples(window.read, size, shard), None)
            found = None if sample is None else webdataset.read_conditions(sample, window.read, shard)
        except DatasetError as error:
            raise _UnprovedError(f"stands beside a tar that begins otherwise: {error.problems[0].found:.60}") from None
    if sample is None or sample.stem != name or found != {"caption": caption}:
        raise _UnprovedError("does not list the tar's first sample as it is")
    return sample


def find_spot(shard: Shard, skip: frozenset[int], key: str, mark: int) -> Spot:
    """Where a row lies that a side-car told of: the first row that is asked for has the shard walked through, once a process."""
    found = _walk_shard(shard._replace(first_row=0, skip=skip), mark).get(key)
    if found is None:
        raise changed_source(shard.file, key, "the sample is not there", "the samples that its side-car lists")
    return Spot(*found, shard.first_row)


@lru_cache(maxsize=64)
def _walk_shard(shard: Shard, mark: int) -> dict[str, tuple[int, int, int]]:  # noqa: ARG001 - a changed shard is another one
    with webdataset.open_shard(shard.file, stream=True) as (window, size):
        return {s.key: (s.position, s.start, s.end - s.start) for s in webdataset.group_samples(window.read, size, shard)}
