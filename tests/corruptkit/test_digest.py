"""Digests: those of the oracle for any rows and edits, in batches of any size, and canonical JSON to the byte."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit import digest
from corruptkit.digest import canonical_json, file_sha256, fingerprint, plan_digest, sha256_hex, variant_id
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row
from tests.corruptkit.strategies import examples, oracle_rows, sources

_text = st.text(max_size=6)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | _text,
    lambda kids: st.lists(kids, max_size=3) | st.dictionaries(_text, kids, max_size=3),
    max_leaves=8,
)


def print_rows(rows: list[Row], *, before: int = 0) -> str:
    """The library's fingerprint of rows, as columns that begin `before` rows into a larger table."""
    rows = [Row("", None, "x")] * before + sorted(rows, key=lambda row: row.key.encode())
    keys = pa.array([row.key for row in rows], pa.large_string())[before:]
    labels = np.array([-1 if row.label is None else row.label for row in rows], np.int64)[before:]
    captions = pa.array([row.caption for row in rows], pa.large_string())[before:]
    return fingerprint(keys, labels, captions)


@examples(150)
@given(sources(), st.integers(1, 5), st.integers(0, 3))
def test_fingerprint_is_the_oracles(source: tuple[list[Row], int], size: int, before: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "_ROWS", size)
        assert print_rows(source[0], before=before) == oracle.fingerprint(oracle_rows(source[0]))


def test_fingerprint_of_columns_that_are_not_there_is_that_of_empty_ones() -> None:
    rows = [Row("a"), Row("b")]
    keys = pa.array(["a", "b"], pa.large_string())
    assert fingerprint(keys, None, None) == print_rows(rows) == oracle.fingerprint(oracle_rows(rows))
    assert fingerprint(keys[:0], None, None) == hashlib.sha256().hexdigest()


@examples(150)
@given(
    st.dictionaries(st.tuples(_text, st.integers(0, 255)), st.tuples(st.sampled_from(oracle.FIELDS), _text), max_size=12), st.integers(1, 5)
)
def test_plan_digest_is_the_oracles(cells: dict[tuple[str, int], tuple[str, str]], size: int) -> None:
    edits = [oracle.Edit(key, stage, "", field, "", new, "", 0) for (key, stage), (field, new) in cells.items()]
    edits.sort(key=lambda edit: (edit.key.encode(), edit.stage))
    columns = (
        pa.array([edit.key for edit in edits], pa.large_string()),
        np.array([edit.stage for edit in edits], np.int32),
        np.array([oracle.FIELDS.index(edit.field) for edit in edits], np.uint8),
        pa.array([edit.new for edit in edits], pa.large_string()),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digest, "_ROWS", size)
        assert plan_digest(*columns) == oracle.plan_digest(edits)


def test_batches_meet_without_a_seam() -> None:
    """More rows than one pass takes."""
    rows = [Row(f"{i:06d}", i % 7 if i % 3 else None, f"c{i}" if i % 5 else None) for i in range(140_000)]
    assert print_rows(rows) == oracle.fingerprint(oracle_rows(rows))


# Canonical JSON


@examples(200)
@given(_values)
def test_canonical_json_is_the_oracles_and_reads_back(value: Any) -> None:
    assert canonical_json(value) == oracle.canonical_json(value)
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_sorts_keys_and_escapes_nothing_that_need_not_be() -> None:
    assert (
        canonical_json({"b": [1, None, True], "a": 'é😀\u2028"\\\n', "B": {}})
        == '{"B":{},"a":"é😀\u2028\\"\\\\\\n","b":[1,null,true]}'.encode()
    )


@pytest.mark.parametrize("value", [0.5, [1, 2.0], {"a": {"b": (float("nan"),)}}, Decimal("0.5")], ids=repr)
def test_canonical_json_refuses_what_has_no_one_form(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_variant_id_does_not_depend_on_the_order_of_fields() -> None:
    identity = {"spec": 1, "source": {"rows": 3, "classes": None}}
    assert variant_id(identity) == variant_id({"source": {"classes": None, "rows": 3}, "spec": 1}) == oracle.variant_id(identity)
    assert len(variant_id(identity)) == 16
    assert variant_id(identity) != variant_id(identity | {"spec": 2})


@pytest.mark.parametrize("size", [0, 1, 99, 1000])
def test_file_digest_is_that_of_its_bytes(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "_PIECE", 100)
    (tmp_path / "file").write_bytes(content := bytes(range(256)) * 4)
    (tmp_path / "file").write_bytes(content[:size])
    assert file_sha256(tmp_path / "file") == sha256_hex(content[:size]) == hashlib.sha256(content[:size]).hexdigest()
