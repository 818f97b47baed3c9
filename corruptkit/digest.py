"""Digests of content: fingerprints, plan digests, variant ids and file hashes. SPEC.md section 5."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Json = Any

# Rows joined into one buffer before it is hashed.
_ROWS = 1 << 16
_PIECE = 1 << 22


def canonical_json(value: Json) -> bytes:
    """Canonical JSON: keys sorted, no white space, UTF-8 unescaped, no floats."""
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _refuse_floats(value: Json) -> None:
    if isinstance(value, float):
        raise TypeError(f"a float has no canonical form: {value!r}")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)


def canonical_rows(*columns: pa.Array) -> bytes:
    """Canonical JSON of rows that lie in columns of texts and integers: an array of arrays, made without a step in Python a row."""
    parts: list[Any] = [pa.scalar(b"[", pa.large_binary())]
    for column in columns:
        cells = column.cast(pa.large_string()) if pa.types.is_integer(column.type) else _quoted(column)
        parts += [cells.cast(pa.large_binary()), pa.scalar(b",", pa.large_binary())]
    parts[-1] = pa.scalar(b"],", pa.large_binary())
    return b"".join([b"[", _joined(parts)[:-1], b"]"])


def _quoted(texts: pa.Array) -> pa.Array:
    """Texts as JSON strings; the few that need escapes go through Python."""
    mark, nothing = pa.scalar('"', pa.large_string()), pa.scalar("", pa.large_string())
    quoted = pc.binary_join_element_wise(mark, texts, mark, nothing)
    odd = pc.match_substring_regex(texts, r'["\\\x00-\x1f]')
    if not pc.any(odd).as_py():
        return quoted
    escaped = [json.dumps(text, ensure_ascii=False) for text in texts.filter(odd).to_pylist()]
    return pc.replace_with_mask(quoted, odd, pa.array(escaped, pa.large_string()))


def sha256_hex(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def variant_id(identity: Json) -> str:
    """The first 16 hex digits of SHA-256 of the identity."""
    return sha256_hex(canonical_json(identity))[:16]


def fingerprint(keys: pa.Array, labels: npt.NDArray[np.int64] | None, captions: pa.Array | None) -> str:
    """SHA-256 over the rows; keys ascend, a label of -1 and a null caption mean that the row has none."""
    digest = hashlib.sha256()
    for start in range(0, len(keys), _ROWS):
        part = slice(start, start + _ROWS)
        columns = _prefixed(keys[part])
        has = np.zeros(len(keys[part]), np.uint8)
        if labels is not None:
            has |= labels[part] >= 0
        if captions is not None:
            has |= np.asarray(captions[part].is_valid()).astype(np.uint8) << 1
        columns.append(_fixed(has, "u1"))
        if labels is not None:
            columns.append(_where(labels[part] >= 0, _fixed(labels[part], "<i8")))
        if captions is not None:
            columns += _prefixed(captions[part])
        digest.update(_joined(columns))
    return digest.hexdigest()


def plan_digest(keys: pa.Array, stages: npt.NDArray[np.int32], fields: npt.NDArray[np.uint8], new: pa.Array) -> str:
    """SHA-256 over all edits in ascending (key bytes, stage)."""
    digest = hashlib.sha256()
    for start in range(0, len(keys), _ROWS):
        part = slice(start, start + _ROWS)
        middle = [_fixed(stages[part], "u1"), _fixed(fields[part], "u1")]
        digest.update(_joined([*_prefixed(keys[part]), *middle, *_prefixed(new[part])]))
    return digest.hexdigest()


def _prefixed(texts: pa.Array) -> list[pa.Array]:
    """lp(text) as two columns; a null text gives nothing at all."""
    raw = texts.cast(pa.large_binary())
    lengths = np.asarray(pc.fill_null(pc.binary_length(raw), 0))
    prefix = _fixed(lengths, "<u4")
    if raw.null_count:
        prefix = _where(np.asarray(raw.is_valid()), prefix)
        raw = pc.fill_null(raw, b"")
    return [prefix, raw]


def _fixed(values: npt.NDArray[Any], dtype: str) -> pa.Array:
    """Each number as the bytes of a dtype."""
    cells = np.ascontiguousarray(values, dtype)
    kind = pa.binary(cells.itemsize)
    return pa.Array.from_buffers(kind, len(cells), [None, pa.py_buffer(cells)]).cast(pa.large_binary())


def _where(mask: npt.NDArray[np.bool_], column: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(mask), column, pa.scalar(b"", pa.large_binary()))


def _joined(columns: list[pa.Array]) -> memoryview:
    cells = pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.large_binary()))
    return _content(cells)


def _content(cells: pa.Array) -> memoryview:
    """The bytes of a large_binary array, cell after cell."""
    if not len(cells):
        return memoryview(b"")
    ends = np.frombuffer(cells.buffers()[1], np.int64)[cells.offset : cells.offset + len(cells) + 1]
    return memoryview(cells.buffers()[2])[ends[0] : ends[-1]]
