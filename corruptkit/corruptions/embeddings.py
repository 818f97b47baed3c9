"""Embeddings of rows: Parquet of a key and a vector, as integers by the rule of SPEC.md section 4."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from corruptkit.corruptions.fields import read_input
from corruptkit.corruptions.rows import Ints

_BATCH = 1 << 13  # rows that are read and digested at a time
_BLOCK = 1 << 8  # rows that are quantised at a time: their numbers stay in the cache
_LONGEST = 1 << 16
_ROOT_MEAN_SQUARE = 32


@dataclass(frozen=True)
class Embeddings:
    """Directions by key: ascending key bytes, and int8 vectors of shape (rows, d). Equal where their digests are."""

    keys: pa.Array = field(compare=False, repr=False)
    vectors: npt.NDArray[np.int8] = field(compare=False, repr=False)
    digest: str

    def find_rows(self, keys: pa.Array) -> Ints:
        """The vector of each key, by number. Raises ValueError where some have none."""
        if len(keys) and not len(self.keys):
            raise ValueError(f"the embeddings {self.digest:.16}... are known by name alone, expected their file; state --embeddings FILE")
        found = pc.index_in(keys, value_set=self.keys)
        if found.null_count:
            first = keys.filter(found.is_null())[0].as_py()
            raise ValueError(f"the embeddings lack {found.null_count} eligible rows, first '{first:.80}', expected each of them")
        return np.asarray(found).astype(np.int64)


def name_embeddings(digest: str) -> Embeddings:
    """Embeddings that are not here: enough to say what a recipe was, not to plan it."""
    return Embeddings(pa.array([], pa.large_string()), np.zeros((0, 1), np.int8), digest)


def quantise_vectors(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """Vectors, (rows, d) of finite numbers that are not all 0, as directions in [-127, 127] with a root mean square of 32."""
    out = np.empty(vectors.shape, np.int8)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        size = np.abs(block)
        whole = np.floor(size / size.max(axis=1, keepdims=True) * 32767 + 0.5)
        square = (whole * whole).astype(np.int64)
        twice = square * ((2 * _ROOT_MEAN_SQUARE) ** 2 * vectors.shape[1]) // square.sum(axis=1, keepdims=True)
        # Below 2^16, where a square root in binary64 has the integer part of the exact one.
        root = np.sqrt(np.minimum(twice, 255**2)).astype(np.int16)
        out[start : start + _BLOCK] = np.copysign(np.minimum((root + 1) >> 1, 127), block)
    return out


def read_embeddings(source: Path | pa.Table) -> Embeddings:
    """Read a Parquet file or a table with the columns key and embedding. Raises ValueError with what is wrong."""
    keys: list[pa.Array] = []
    parts: list[npt.NDArray[np.int8]] = []
    for batch in filter(len, _read_batches(source)):
        numbers = _read_vectors(batch["embedding"], parts[0].shape[1] if parts else None, sum(map(len, keys)))
        if batch["key"].null_count:
            raise ValueError("found a row of embeddings without a key, expected a key in each")
        keys.append(batch["key"].cast(pa.large_string()))
        parts.append(quantise_vectors(numbers))
    if not parts:
        raise ValueError("the embeddings hold no row, expected one for each row that may be chosen")
    names = pa.chunked_array(keys).combine_chunks()
    order = pc.sort_indices(names)
    names = names.take(order)
    twice = np.flatnonzero(pc.equal(names[1:], names[:-1]))
    if len(twice):
        raise ValueError(f"key '{names[int(twice[0])].as_py():.80}' stands twice in the embeddings, expected each key once")
    vectors = np.concatenate(parts)[np.asarray(order)]
    return Embeddings(names, vectors, _digest_rows(names, vectors))


def _read_batches(source: Path | pa.Table) -> Iterator[pa.RecordBatch]:
    try:
        table = isinstance(source, pa.Table)
        held: Any = source if table else pq.ParquetFile(source)
        schema = held.schema if table else held.schema_arrow
        for name, good in (("key", _is_text), ("embedding", _is_list)):
            if schema.names.count(name) != 1 or not good(schema.field(name).type):
                kinds = ", ".join(str(field.type) for field in schema if field.name == name)
                found = f"a column '{name}' of {kinds:.80}" if kinds else f"no column '{name}'"
                raise ValueError(f"found {found} in the embeddings, expected key: text and embedding: lists of numbers")
        columns = ["key", "embedding"]
        yield from held.select(columns).to_batches(_BATCH) if table else held.iter_batches(_BATCH, columns=columns, use_threads=False)
    except OSError as error:
        raise ValueError(f"cannot read '{source}': {error.strerror or 'it is no Parquet file'}; name a Parquet file") from None
    except pa.ArrowException as error:
        raise ValueError(f"cannot read '{source}': {str(error).splitlines()[0]:.200}; name a Parquet file") from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _read_vectors(column: pa.Array, width: int | None, start: int) -> npt.NDArray[np.float64]:
    """The vectors of a batch as float64, (rows, d); `start` is the number of its first row."""
    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    width = int(lengths[0]) if width is None else width
    values = np.asarray(column.flatten()).astype(np.float64)  # a null number is NaN; what stands under a null list is left out
    wrong = np.flatnonzero((lengths != width) | (lengths < 1) | (lengths > _LONGEST))
    numbers = values.reshape(-1, max(width, 1)) if not len(wrong) else np.zeros((0, 1))
    if not len(wrong):
        wrong = np.flatnonzero(~np.isfinite(numbers).all(axis=1) | ~numbers.any(axis=1))
    if len(wrong):
        raise ValueError(
            f"row {start + int(wrong[0])} of the embeddings is no vector, expected {width or 'some'} finite numbers, not all 0"
        )
    return numbers


def _digest_rows(keys: pa.Array, vectors: npt.NDArray[np.int8]) -> str:
    digest = hashlib.sha256(vectors.shape[1].to_bytes(4, "little"))
    for start in range(0, len(keys), _BATCH):
        names = [key.encode() for key in keys[start : start + _BATCH].to_pylist()]
        rows = vectors[start : start + _BATCH]
        digest.update(b"".join(len(name).to_bytes(4, "little") + name + row.tobytes() for name, row in zip(names, rows, strict=True)))
    return digest.hexdigest()


def _read_field(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Embeddings):
        return value
    if isinstance(value, Mapping):
        value = pa.table({"key": pa.array(value, pa.string()), "embedding": pa.array(value.values(), pa.list_(pa.float64()))})
    source = value if isinstance(value, pa.Table) else read_input(value, info)
    if source is None:
        raise ValueError(f"found {type(value).__name__}, expected a path to a Parquet file of keys and embeddings")
    return read_embeddings(source)


EmbeddingsField = Annotated[
    Embeddings,
    BeforeValidator(_read_field),
    PlainSerializer(lambda embeddings: embeddings.digest, return_type=str),
    WithJsonSchema({"type": "string"}),
]
