"""Comparing two data sets: what identifies them, and every row's condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.dataset import Dataset
from corruptkit.index import Index
from corruptkit.manifest import differing_fields
from corruptkit.opening import open_dataset

# key, field, the first's value and the second's, None where it has none
Change = tuple[str, str, str | None, str | None]


@dataclass(frozen=True)
class Difference:
    """How two data sets differ: fields of their identities, and rows by key."""

    identity: tuple[tuple[str, object, object], ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: tuple[Change, ...]


def diff(first: str | Path | Dataset, second: str | Path | Dataset) -> Difference:
    """Compare the conditions of two sources or variants, row by row."""
    a, b = (other if isinstance(other, Dataset) else open_dataset(other) for other in (first, second))
    mine, theirs = (_conditions(other.index()) for other in (a, b))
    joined = mine.join(theirs, "key", join_type="full outer", left_suffix=".a", right_suffix=".b", coalesce_keys=True).sort_by("key")
    only = [joined.filter(pc.is_null(joined[name]))["key"].to_pylist() for name in ("here.b", "here.a")]
    both = joined.filter(pc.and_(pc.is_valid(joined["here.a"]), pc.is_valid(joined["here.b"])))
    changed = [row for field in ("label", "caption") for row in _changed_rows(both, field)]
    return Difference(
        tuple(differing_fields(_identity(a), _identity(b))),
        tuple(only[0]),
        tuple(only[1]),
        tuple(sorted(changed, key=lambda change: change[:2])),
    )


def _identity(dataset: Dataset) -> Mapping[str, Any]:
    return dataset.manifest.identity if dataset.manifest else {"source": dataset.index().identity()}


def _conditions(index: Index) -> pa.Table:
    table = index.table.select(["key", "label", "caption"])
    return table.append_column("here", pa.array([True] * len(table), pa.bool_()))


def _changed_rows(both: pa.Table, field: str) -> Iterator[Change]:
    a, b = both[f"{field}.a"], both[f"{field}.b"]
    same = pc.or_(pc.fill_null(pc.equal(a, b), False), pc.and_(pc.is_null(a), pc.is_null(b)))
    part = both.filter(pc.invert(same))
    for row in part.select(["key", f"{field}.a", f"{field}.b"]).to_pylist():
        values = [None if value in (None, -1) else str(value) for value in (row[f"{field}.a"], row[f"{field}.b"])]
        yield row["key"], field, values[0], values[1]
