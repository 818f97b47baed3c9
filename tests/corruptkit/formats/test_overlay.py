"""A plan on disk: what is written reads back, always in the same bytes, and a plan of another shape is refused."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.errors import IntegrityError
from corruptkit.formats.overlay import EDITS, read_edits, write_edits
from tests.corruptkit.strategies import examples

LINES = [
    {"key": "a", "stage": 0, "kind": "flip", "field": "label", "old": "1", "new": "2", "donor": "", "rank": 1},
    {"key": "a", "stage": 1, "kind": "swap", "field": "caption", "old": "x", "new": "é\n", "donor": "b", "rank": 0},
    {"key": "b", "stage": 1, "kind": "swap", "field": "caption", "old": "é\n", "new": "x", "donor": "a", "rank": 1},
    {"key": "é", "stage": 0, "kind": "flip", "field": "label", "old": "2", "new": "0", "donor": "", "rank": 0},
]


def edit_table(lines: list[dict], schema: pa.Schema = EDITS) -> pa.Table:
    return pa.Table.from_pylist([{"shard": "a.tar", **line} for line in lines], schema=schema)


def write_plan(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


def refusal_of(path: Path) -> str:
    with pytest.raises(IntegrityError) as caught:
        read_edits(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith(", expected a plan as FORMAT.md describes it; do not use it")
    assert "\n" not in text
    return text


# What is written


def write_bytes(table: pa.Table) -> bytes:
    out = io.BytesIO()
    write_edits(table, out)
    return out.getvalue()


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@examples(60)
@given(keys=st.sets(_texts, max_size=6), texts=st.lists(_texts, min_size=6, max_size=6))
def test_written_edits_read_back(tmp_path: Path, keys: set[str], texts: list[str]) -> None:
    lines = [LINES[1] | {"key": key, "new": text} for key, text in zip(sorted(keys, key=str.encode), texts, strict=False)]
    (tmp_path / "plan.parquet").write_bytes(write_bytes(edit_table(lines)))
    assert read_edits(tmp_path / "plan.parquet").equals(edit_table(lines))


def test_file_has_the_stated_schema_and_no_nulls_allowed(tmp_path: Path) -> None:
    (tmp_path / "plan.parquet").write_bytes(write_bytes(edit_table(LINES)))
    schema = pq.read_schema(tmp_path / "plan.parquet")
    texts = dict.fromkeys(("key", "shard", "kind", "field", "old", "new", "donor"), pa.string())
    expected = texts | {"stage": pa.int32(), "rank": pa.int64()}
    assert {field.name: field.type for field in schema} == expected
    assert schema.names == ["key", "shard", "stage", "kind", "field", "old", "new", "donor", "rank"]
    assert not any(field.nullable for field in schema)


def test_plan_without_edits_is_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.parquet").write_bytes(write_bytes(edit_table([])))
    found = read_edits(tmp_path / "plan.parquet")
    assert (len(found), found.schema) == (0, EDITS)


def test_bytes_do_not_depend_on_how_the_table_lies_in_memory() -> None:
    table = edit_table(LINES)
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 2), table.slice(3)])
    assert write_bytes(pieces) == write_bytes(table)
    assert write_bytes(pa.concat_tables([table, table]).slice(4)) == write_bytes(table)


def test_row_groups_are_131_072_rows_long(tmp_path: Path) -> None:
    count = 131_073
    columns = {
        "key": pa.array([f"{row:07d}" for row in range(count)], pa.large_string()),
        **{name: pa.array(["1"] * count, pa.large_string()) for name in ("shard", "kind", "old", "new", "donor")},
        "field": pa.array(["label"] * count, pa.large_string()),
        "stage": pa.array([0] * count, pa.int32()),
        "rank": pa.array(range(count), pa.int64()),
    }
    table = pa.table(columns).select(EDITS.names).cast(EDITS)
    (tmp_path / "plan.parquet").write_bytes(write_bytes(table))
    metadata = pq.read_metadata(tmp_path / "plan.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [131_072, 1]
    assert read_edits(tmp_path / "plan.parquet").equals(table)


# What is refused


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not Parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.parquet").write_bytes(content)
    assert "it cannot be read" in refusal_of(tmp_path / "plan.parquet")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "it cannot be read" in refusal_of(tmp_path / "plan.parquet")


def test_every_cut_of_a_plan_is_refused(tmp_path: Path) -> None:
    whole = write_bytes(edit_table(LINES))
    for stop in range(0, len(whole), 37):
        (tmp_path / "plan.parquet").write_bytes(whole[:stop])
        refusal_of(tmp_path / "plan.parquet")


@pytest.mark.parametrize("name", EDITS.names)
def test_missing_column_is_refused(tmp_path: Path, name: str) -> None:
    path = write_plan(tmp_path / "plan.parquet", edit_table(LINES).drop_columns(name))
    assert "the columns [" in refusal_of(path)


def test_further_column_is_refused(tmp_path: Path) -> None:
    table = edit_table(LINES).append_column("note", pa.array(["x"] * len(LINES)))
    assert "the columns [" in refusal_of(write_plan(tmp_path / "plan.parquet", table))


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    table = edit_table(LINES).select(EDITS.names[::-1])
    assert "the columns [" in refusal_of(write_plan(tmp_path / "plan.parquet", table))


@pytest.mark.parametrize("name", EDITS.names)
def test_null_is_refused(tmp_path: Path, name: str) -> None:
    lines = [LINES[0], LINES[3] | {name: None}]
    assert "nulls" in refusal_of(write_plan(tmp_path / "plan.parquet", edit_table(lines)))


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("stage", pa.string(), "x"),
        ("stage", pa.string(), "0"),
        ("stage", pa.float64(), 0.5),
        ("stage", pa.int64(), 1 << 40),
        ("rank", pa.string(), "x"),
        ("rank", pa.uint64(), (1 << 64) - 1),
        ("key", pa.binary(), b"\xff\xfe"),
        ("new", pa.int64(), 5),
        ("new", pa.list_(pa.string()), ["a"]),
        ("old", pa.struct([("a", pa.int8())]), {"a": 1}),
    ],
)
def test_other_type_is_refused(tmp_path: Path, name: str, kind: pa.DataType, value: object) -> None:
    table = edit_table(LINES[:1])
    table = table.set_column(table.column_names.index(name), name, pa.array([value], kind))
    assert re.search(rf"the type .* of {name}, ", refusal_of(write_plan(tmp_path / "plan.parquet", table)))


@pytest.mark.parametrize(
    "arrange",
    [
        lambda lines: lines[::-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0], lines[0] | {"stage": 0, "field": "caption"}],
        lambda lines: [lines[0] | {"key": "z"}, lines[1] | {"key": "é"}, lines[0] | {"key": "y"}],
    ],
    ids=["backwards", "twice", "stages backwards", "two fields in one stage", "keys out of order"],
)
def test_order_of_another_kind_is_refused(tmp_path: Path, arrange: Callable[[list[dict]], list[dict]]) -> None:
    path = write_plan(tmp_path / "plan.parquet", edit_table(arrange(LINES)))
    assert "edits out of order, or twice" in refusal_of(path)


def test_keys_ascend_by_bytes(tmp_path: Path) -> None:
    """In UTF-8 the surrogate pairs of UTF-16 come last: an order by code units would put them before U+FFFD."""
    lines = [LINES[0] | {"key": key} for key in ("Z", "a", "é", "\ufffd", "😀")]
    assert len(read_edits(write_plan(tmp_path / "plan.parquet", edit_table(lines)))) == 5


@pytest.mark.parametrize("field", ["image", "", "Label", "labels"])
def test_unknown_field_is_refused(tmp_path: Path, field: str) -> None:
    path = write_plan(tmp_path / "plan.parquet", edit_table([LINES[0] | {"field": field}]))
    assert f"the fields ['{field}']" in refusal_of(path)


@pytest.mark.parametrize("value", ["", "x", "-1", "1.0", " 1", "+1", "٣", "9" * 19, "01", "1_0"])
@pytest.mark.parametrize("side", ["old", "new"])
def test_label_that_is_no_decimal_is_refused(tmp_path: Path, value: str, side: str) -> None:
    refusal_of(write_plan(tmp_path / "plan.parquet", edit_table([LINES[0] | {side: value}])))


@pytest.mark.parametrize("stage", [-1, 256, 1 << 30])
def test_stage_beyond_a_byte_is_refused(tmp_path: Path, stage: int) -> None:
    refusal_of(write_plan(tmp_path / "plan.parquet", edit_table([LINES[0] | {"stage": stage}])))
