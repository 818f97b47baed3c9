"""Rows in another format than their source's: what they can be written as, and the schema under which tables of them are stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.dataset import Dataset
from corruptkit.errors import DatasetError, Problem
from corruptkit.formats import arrow, imagefolder, parquet
from corruptkit.formats.members import holds_bytes

_FIND_NULLS = {"parquet": parquet.find_nulls, "arrow": arrow.find_nulls, "imagefolder": imagefolder.find_nulls}
# Types that `datasets` calls by other names than Arrow, and those that it calls by the same; it knows no others.
_NAMES = {"halffloat": "float16", "float": "float32", "double": "float64", "date32[day]": "date32", "date64[ms]": "date64"}
_SAME = re.compile(
    r"null|bool|u?int(?:8|16|32|64)|(?:large_)?(?:string|binary)|(?:string|binary)_view"
    r"|(?:time32|time64|timestamp|duration|fixed_size_binary)\[.*\]|decimal(?:128|256)\(.*\)"
)


def rows_schema(dataset: Dataset, format: str) -> pa.Schema:
    """The columns of rows in another format than their source's. Raises DatasetError where the format cannot hold them."""
    _refuse_hidden(dataset)
    schema = dataset.schema()
    if format != "webdataset":
        return schema
    kept = [column for column in schema if not _is_member(column) or _is_filled(dataset, column.name)]
    return pa.schema(kept)


def _refuse_hidden(dataset: Dataset) -> None:
    """A column that rows do not show would be lost without a word."""
    for file, stat in zip(dataset.shards, dataset.index().meta.shards, strict=True):
        if stat.hidden:
            found = f"a column '{stat.hidden[0]}' beside the {stat.hidden[0]} of the rows"
            do = "rename it, or write the source's own format or an overlay"
            raise DatasetError(Problem(str(file), found, "one of them, since another format holds one", do))


def _is_member(column: pa.Field) -> bool:
    return column.name in ("image", "label", "caption") or holds_bytes(column.type)


def _is_filled(dataset: Dataset, name: str) -> bool:
    """Whether all rows hold something in a column that becomes a member of a tar; none do where it is not.

    Raises DatasetError where some do: readers of tars take the members of one sample for those of all.
    """
    index, empty = dataset.index(), _find_empty(dataset, name)
    if empty.all():
        return False
    for row in np.flatnonzero(empty)[:1].tolist():
        file = dataset.shards[int(index.numbers("shard")[row])]
        key = index.column("key")[row].as_py()
        excluded = f"leave such rows out with --{name}-column NAME --bad exclude"
        do = excluded if name in ("label", "caption") else "fill the column or leave it out"
        found, expected = f"no {name} among rows that have one", "one in every row of a tar, or in none"
        raise DatasetError(Problem(str(file), found, expected, f"{do}, or use --format parquet or arrow", key=key))
    return True


def _find_empty(dataset: Dataset, name: str) -> Any:
    """Which rows hold nothing in a column."""
    index = dataset.index()
    if name == "label":
        return index.numbers("label") < 0
    if name == "caption":
        return np.asarray(pc.is_null(index.column("caption")))
    find, positions = _FIND_NULLS[dataset.layout.format], index.numbers("position")
    parts = [np.isin(positions[start:stop], find(shard, name)) for shard, start, stop in dataset.shard_rows()]
    return np.concatenate([np.zeros(0, bool), *parts])


def stored_schema(rows: pa.Schema, class_names: Sequence[str]) -> pa.Schema:
    """The schema that rows are stored under in tables: images as `datasets` knows them, and its names for the types."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    kinds = {"key": pa.string(), "image": image, "caption": pa.string()}
    schema = pa.schema([(column.name, kinds.get(column.name, column.type)) for column in rows])
    features = describe_features(schema, class_names)
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})}) if features else schema


def describe_features(schema: pa.Schema, class_names: Sequence[str]) -> dict[str, Any]:
    """The columns as `datasets` describes them; nothing where it knows no word for one, such as a map."""
    features: dict[str, Any] = {}
    for column in schema:
        if column.name == "image":
            features[column.name] = {"_type": "Image"}
        elif column.name == "label" and class_names:
            features[column.name] = {"names": list(class_names), "_type": "ClassLabel"}
        elif (feature := _describe_type(column.type)) is not None:
            features[column.name] = feature
        else:
            return {}
    return features


def _describe_type(kind: pa.DataType) -> dict[str, Any] | None:
    """A type as `datasets` describes it, or nothing."""
    if pa.types.is_struct(kind):
        parts = {part.name: _describe_type(part.type) for part in kind}
        return None if None in parts.values() else parts
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        feature = _describe_type(kind.value_type)
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        name = "LargeList" if pa.types.is_large_list(kind) else "List"
        return None if feature is None else {"feature": feature, **length, "_type": name}
    if pa.types.is_dictionary(kind):
        return _describe_type(kind.value_type)
    name = _NAMES.get(str(kind), str(kind))
    known = name in _NAMES.values() or _SAME.fullmatch(name)
    return {"dtype": name, "_type": "Value"} if known else None


def stored_tables(tables: Iterator[tuple[pa.Array, pa.Table]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows, with the names of their images, under the schema that they are stored under."""
    for names, table in tables:
        columns = [_store_images(names, table["image"], f.type) if f.name == "image" else table[f.name].cast(f.type) for f in schema]
        yield pa.table(columns, schema=schema)


def _store_images(names: pa.Array, images: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Images with the base names of their files; a row without one holds nothing, not an image without bytes."""
    content = images.combine_chunks().cast(pa.binary())
    bare = pa.array([(name or "").rpartition("/")[2] or None for name in names.to_pylist()], pa.string())
    return pa.StructArray.from_arrays([content, bare], fields=list(kind), mask=content.is_null())
