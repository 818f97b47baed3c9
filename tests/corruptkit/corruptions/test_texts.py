"""Tables of texts: read from files and lists, refused in one line, written down canonically, looked up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.corruptions.texts import SCHEMA, Texts, list_texts, read_texts
from tests.corruptkit import oracle
from tests.corruptkit.strategies import captions, examples, keys

_levels = st.integers(1, 3) | st.integers(1, 2**32 - 1)
_odd = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text('"\\\b\f\n\r\t\x00\x1f\x7f\x85\u2028é😀/', max_size=6)
tables = st.lists(st.tuples(keys(), _levels, captions | _odd), max_size=12, unique_by=lambda row: row[:2])


@examples(200)
@given(tables, st.randoms(use_true_random=False))
def test_canonical_form_is_the_oracles_in_any_order(rows: list[Any], shuffle: Any) -> None:
    expected = oracle.canonical_json(sorted(rows, key=lambda row: (row[0].encode(), row[1])))
    shuffle.shuffle(rows)
    texts = Texts.of(list_texts(rows))
    assert texts.canonical() == expected
    assert texts.digest == oracle.sha256(expected)
    assert Texts.of(list_texts(json.loads(expected))) == texts


@examples(200)
@given(tables, st.lists(st.tuples(keys(), st.integers(1, 3)), max_size=8))
def test_text_is_found_by_key_and_level(rows: list[Any], others: list[tuple[str, int]]) -> None:
    known = {row[:2]: row[2] for row in rows}
    asked = [*known, *others]
    found = Texts.of(list_texts(rows)).find(
        pa.array([key for key, _ in asked], pa.large_string()), np.array([n for _, n in asked], np.int64)
    )
    assert found.to_pylist() == [known.get(place) for place in asked]


@examples(60)
@given(rows=tables.filter(bool))
def test_files_give_what_lists_give(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("texts")
    table = list_texts(rows)
    pq.write_table(table.append_column("reply", table["text"]).select(["reply", "text", "key", "level"]), place / "t.parquet")
    lines = [json.dumps({"text": text, "tokens": {"all": [1]}, "level": level, "key": key}) for key, level, text in rows]
    (place / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = [Texts.of(read_texts(place / name)) for name in ("t.parquet", "t.jsonl")]
    assert found == [Texts.of(table)] * 2
    assert all(texts.rows.schema == SCHEMA for texts in found)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b"], pa.string()),
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.chunked_array([["a"], ["b"]], pa.large_string()),
    ],
    ids=lambda column: str(column.type),
)
def test_texts_of_any_type_are_taken(column: Any) -> None:
    table = pa.table({"key": column, "level": pa.array([1, 2], pa.uint8()), "text": column})
    assert Texts.of(table).canonical() == b'[["a",1,"a"],["b",2,"b"]]'


def test_long_lines_are_read(tmp_path: Path) -> None:
    text = "cat " * 800_000
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"key": key, "level": 1, "text": text}) + "\n" for key in "ab"), encoding="utf-8")
    assert Texts.of(read_texts(tmp_path / "t.jsonl")).rows["text"].to_pylist() == [text, text]


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_file_without_rows_is_a_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    assert Texts.of(read_texts(tmp_path / "t.jsonl")).canonical() == b"[]"


_ROW = pa.table({"key": ["a"], "level": [1], "text": ["x"]})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ([["a", 1]], r"found \['a', 1\] as a row"),
        (["abc"], "found 'abc' as a row"),
        ([["a", True, "x"]], "as a row"),
        ([["a", 1.0, "x"]], "as a row"),
        ([["a", 1, "x"], ["a", 1, None]], r"found \['a', 1, None\] as a row"),
        ([["a", 2**63, "x"]], "beyond 64 bits"),
        ([["a", 1, "\ud800"]], "no lone surrogate"),
        ([["\udfff", 1, "a"]], "no lone surrogate"),
        ([["", 1, "x"]], "found '' as a key"),
        ([["a\x85", 1, "x"]], "as a key"),
        ([["a\x7f", 1, "x"]], "as a key"),
        ([["a", 0, "x"]], "found level 0 of 'a'"),
        ([["a", 2**32, "x"]], "found level 4294967296 of 'a'"),
        ([["b", 1, "x"], ["a", -3, "x"]], "found level -3 of 'a'"),
        ([["a", 2, "x"], ["b", 2, "y"], ["a", 2, "x"]], "found 'a' at level 2 twice"),
        (_ROW.drop_columns("text"), "0 columns 'text'"),
        (pa.table([["a"], ["b"], [1], ["x"]], names=["key", "key", "level", "text"]), "2 columns 'key'"),
        (_ROW.set_column(1, "level", pa.array([None], pa.int64())), "found 1 rows of the table without a level"),
        (_ROW.set_column(1, "level", pa.array([2**63], pa.uint64())), "cannot be used"),
        (_ROW.set_column(1, "level", pa.array([True])), "found a column 'level' of bool"),
        (_ROW.set_column(2, "text", pa.array([b"x"])), "found a column 'text' of binary"),
        (_ROW.set_column(2, "text", pa.array([b"\xed\xa0\x80"]).view(pa.string())), "Invalid UTF8"),
    ],
)
def test_wrong_table_is_refused_in_one_line(table: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        Texts.of(table if isinstance(table, pa.Table) else list_texts(table))
    assert "\n" not in str(caught.value)
    assert ", expected " in str(caught.value) or "; " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.parquet", b""),
        ("t.parquet", b"PAR1"),
        ("t.jsonl", b"[1]\n"),
        ("t.jsonl", b'{"key": "a", "level": 1.5, "text": "x"}'),
        ("t.jsonl", b'{"key": "a", "level": "1", "text": "x"}'),
        ("t.jsonl", b'{"key": "a", "level": 1, "text": "x'),
        ("t.jsonl", b'{"key": "a", "key": "b", "level": 1, "text": "x"}'),
    ],
)
def test_broken_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is not (Parquet|JSON lines with the fields key, level and text) .*; mend the file"):
        read_texts(tmp_path / name)


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl"])
def test_folder_is_no_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"cannot read .*: Is a directory; name a file"):
        read_texts(tmp_path / name)
