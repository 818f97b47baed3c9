"""Fields that kinds share: ratios, seeds, groups, matrices, key files, and what `where` lets through."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from corruptkit.corruptions import Flip, Swap
from corruptkit.corruptions.fields import Where, decimal_text
from corruptkit.recipe import Recipe
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row
from tests.corruptkit.strategies import captions, examples, index_rows

# Ratios and seeds


@pytest.mark.parametrize(
    ("given_as", "text"),
    [
        ("0.050", "0.05"),
        ("5e-2", "0.05"),
        (5e-2, "0.05"),
        ("1.0", "1"),
        ("0.0", "0"),
        (".5", "0.5"),
        ("5.", None),
        ("1.", "1"),
        ("00.50", "0.5"),
        ("0", "0"),
        (0, "0"),
        (1, "1"),
        (1.0, "1"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-7, "0.0000001"),
        ("1E-7", "0.0000001"),
        ("100e-2", "1"),
        ("0e5", "0"),
        (Decimal("0.10"), "0.1"),
        (Decimal("1E-3"), "0.001"),
        (Decimal("0E-20"), "0"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("1e-400", "0." + "0" * 399 + "1"),
        (5e-324, "0." + "0" * 323 + "5"),
        ("0.99999999999999999999", "0.99999999999999999999"),
        ("1.00000000000000000001", None),
        (-0.1, None),
        (float("nan"), None),
        (float("inf"), None),
        (Decimal("NaN"), None),
        (Decimal("-0.1"), None),
        (True, None),
        (False, None),
        (None, None),
        ("5%", None),
        ("٠.٥", None),
        ("0.5\n0", None),
        (b"0.5", None),
        (Fraction(1, 2), None),
    ],
    ids=repr,
)
def test_ratio_has_one_text(given_as: object, text: str | None) -> None:
    if text is None:
        with pytest.raises(ValidationError):
            Flip(ratio=given_as)
    else:
        assert Flip(ratio=given_as).ratio == Swap(ratio=given_as).ratio == text


@examples(300)
@given(st.decimals(0, 1, allow_nan=False, places=12) | st.floats(0, 1))
def test_text_of_a_decimal_is_exact_and_read_again_the_same(value: Decimal | float) -> None:
    if str(value).startswith("-"):
        value = abs(value)
    text = decimal_text(value)
    assert Fraction(text) == Fraction(repr(value) if isinstance(value, float) else value)
    assert decimal_text(text) == text
    assert not text.endswith((".", "0")) or text == "0"
    assert "e" not in text.lower()


@pytest.mark.parametrize(
    ("given_as", "text"), [(0, "0"), ("0", "0"), ("007", "7"), (2**64, str(2**64)), ("1.e2", "1.e2"), ("0" * 9, "0"), ("01.e00", "1.e0")]
)
def test_seed_has_one_text(given_as: object, text: str) -> None:
    assert Recipe(seed=given_as, chain=[Flip(ratio=0)]).seed == text


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "", "-1", "1e3", "0x1", "٣", "²", "1.e", ".e1", "1.e-1", "1\n", b"1"], ids=repr)
def test_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(ValidationError, match="expected a seed: a non-negative integer"):
        Recipe(seed=seed, chain=[Flip(ratio=0)])


# Tables


def test_groups_have_one_order() -> None:
    flips = [Flip(ratio=1, mode="within", groups=groups) for groups in ([[5, 6], [2, 0, 1]], ((0, 1, 2), (6, 5)), [[1, 2, 0], [6, 5]])]
    assert {flip.groups for flip in flips} == {((0, 1, 2), (5, 6))}
    assert {content for flip in flips for content in flip.inputs()} == {b"[[0,1,2],[5,6]]"}


@pytest.mark.parametrize(
    "groups", [[[0, 1], [1]], [[0, 0]], [[]], [0, 1], 3, {"a": [0]}, [[0, -1]], [[0, 1.0]], [[0, "1"]], [[True, 2]], [[0, None]]], ids=repr
)
def test_groups_that_are_none_are_refused(groups: object) -> None:
    with pytest.raises(ValidationError, match="group"):
        Flip(ratio=1, mode="within", groups=groups)


def test_matrix_has_one_text_a_weight_and_none_on_its_diagonal() -> None:
    flip = Flip(ratio=1, mode="matrix", matrix=[["anything", 2.50, "1e2"], [0, None, ".5"], [Decimal("0E3"), "007", 1]])
    assert flip.matrix == (("0", "2.5", "100"), ("0", "0", "0.5"), ("0", "7", "0"))
    assert flip.inputs() == [b'[["0","2.5","100"],["0","0","0.5"],["0","7","0"]]']


@pytest.mark.parametrize(
    "matrix",
    [[[0, 1]], [[0, 1], [1]], [[0, -1], [1, 0]], [[0, "x"], [1, 0]], [[0, float("nan")], [1, 0]], [[0, True], [1, 0]], "12", 3, [3]],
    ids=repr,
)
def test_matrix_that_is_none_is_refused(matrix: object) -> None:
    with pytest.raises(ValidationError):
        Flip(ratio=1, mode="matrix", matrix=matrix)


def write_file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_matrix_of_a_csv_may_have_any_line_ends_blanks_and_a_mark(tmp_path: Path) -> None:
    texts = [b"0,1\n2.5,0\n", b"0,1\r\n2.5,0", b"\n0, 1\n\n 2.50 ,0\n\n", b'"0","1"\n"2.5","0"\n', b"\xef\xbb\xbf0,1\n2.5,0\n"]
    found = {Flip(ratio=1, mode="matrix", matrix=write_file(tmp_path / "m.csv", text)).matrix for text in texts}
    assert found == {(("0", "1"), ("2.5", "0"))}


def test_confusion_is_spread_to_a_matrix(tmp_path: Path) -> None:
    """Lines in any order, a pair twice, decimals of other lengths, counts of true positives; what is not there is 0."""
    lines = b"true,predicted,count\n2,0,3\n0,1,0.25\n 0 , 1 ,1.5\n1,1,90\n\n2,2,10\n"
    expected = (("0", "1.75", "0"), ("0", "0", "0"), ("3", "0", "0"))
    for text in (lines, b"\xef\xbb\xbf" + lines, lines.replace(b"\n", b"\r\n"), lines.replace(b"true,", b"True, ")):
        assert Flip(ratio=1, mode="matrix", matrix=write_file(tmp_path / "m.csv", text)).matrix == expected
    large = b"true,predicted,count\n0,1,123456789012345678901234567890.5\n0,1,0.00000000000000000000000001\n1,0,1\n"
    found = Flip(ratio=1, mode="matrix", matrix=write_file(tmp_path / "m.csv", large)).matrix
    assert found == (("0", "123456789012345678901234567890.50000000000000000000000001"), ("1", "0"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.csv", b"true,predicted,count\n0,1\n", "found '0,1' in line 2"),
        ("m.csv", b"true,predicted,count\n0,1,-1\n", "found '-1', expected a decimal number"),
        ("m.csv", b"true,predicted,count\n0,99999,1\n", "found '0,99999,1' in line 2"),
        ("m.json", b"[[0, 1], [1, 0]", "is not JSON"),
        ("m.json", b"[" * 100_000, "is not JSON"),
        ("m.json", b"\xff", "it is not UTF-8"),
        ("m.csv", b"0,1\n1\n", "expected a matrix of K rows with K weights each"),
        ("m.csv", b"0;1\n1;0\n", "expected a matrix of K rows with K weights each"),
        ("m.csv", b"0,a\n1,0\n", "found 'a', expected a decimal number"),
    ],
)
def test_matrix_file_that_is_none_is_refused(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=reason):
        Flip(ratio=1, mode="matrix", matrix=write_file(tmp_path / name, content))


def test_key_file_has_a_key_a_line_each_once_in_ascending_bytes(tmp_path: Path) -> None:
    where = Where(keys_file=write_file(tmp_path / "keys", "z\né\n\na b\nz\n\U0001f600\n\uffee".encode()))
    assert where.keys_file == ("a b", "z", "é", "\uffee", "\U0001f600")
    assert Swap(ratio=1, where=where).inputs() == ["a b\nz\né\n\uffee\n\U0001f600\n".encode()]
    assert where == Where(keys_file=["\U0001f600", "\uffee", "z", "é", "a b"])


@pytest.mark.parametrize("content", [b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb\n"], ids=["line ends of Windows", "byte order mark"])
def test_key_file_from_another_editor_names_the_same_keys_or_is_refused(content: bytes, tmp_path: Path) -> None:
    """What must not happen: keys that no row has, taken in silence."""
    with suppress(ValidationError):
        assert Where(keys_file=write_file(tmp_path / "keys", content)).keys_file == ("a", "b")


def test_empty_key_file_lets_nothing_through(tmp_path: Path) -> None:
    assert Where(keys_file=write_file(tmp_path / "keys", b"\n\n")).keys_file == ()
    assert admits_of({"keys_file": []}, [Row("a", 0, "x")]) == [False]


@pytest.mark.parametrize(("mode", "table"), [("within", "groups"), ("matrix", "matrix")])
def test_table_belongs_to_its_mode(mode: str, table: str) -> None:
    with pytest.raises(ValidationError, match=f"flip mode '{mode}' needs {table}"):
        Flip(ratio=1, mode=mode)
    tables: dict[str, Any] = {"groups": [[0, 1]], "matrix": [["0", "1"], ["1", "0"]]}
    for other in ("uniform", "prior", "pair", "redraw", *({"within", "matrix"} - {mode})):
        with pytest.raises(ValidationError, match=f"flip mode '{other}' (takes no {table}|needs)"):
            Flip(ratio=1, mode=other, **{table: tables[table]})


def test_models_are_values() -> None:
    flip = Flip(ratio="0.10", where={"classes": (2, 1)})
    assert flip == Flip(ratio=0.1, where=Where(classes=[1, 2]))
    assert hash(flip) == hash(Flip(ratio=0.1, where=Where(classes=[1, 2])))
    with pytest.raises(ValidationError, match="frozen"):
        flip.ratio = "1"


# Where


def admits_of(where: dict[str, Any], rows: list[Row]) -> list[bool]:
    found = Where(**where).admits(index_rows(rows, classes=9).rows())
    assert found.dtype == np.bool_
    return found.tolist()


ROWS = [
    Row("a", 0, "A red\tcat"),
    Row("b", 1, ""),
    Row("c", 2, " \r\n\v\f "),
    Row("d", None, "one\u00a0word\u3000only"),
    Row("e", 1, None),
    Row("f", 0, "Cat.*cat"),
    Row("g", 8, "ca\u0308t 😀 é"),
]


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({}, "abcdefg"),
        ({"classes": [0, 8, 5]}, "afg"),
        ({"classes": []}, ""),
        ({"keys_file": ["g", "a", "nobody"]}, "ag"),
        ({"caption_contains": "cat"}, "af"),
        ({"caption_contains": "Cat"}, "f"),
        ({"caption_contains": ".*"}, "f"),
        ({"caption_contains": "a\u0308"}, "g"),
        ({"caption_contains": "ä"}, ""),
        ({"caption_contains": "\t"}, "a"),
        ({"caption_contains": "😀"}, "g"),
        ({"min_words": 0}, "abcdfg"),
        ({"max_words": 0}, "bc"),
        ({"min_words": 1, "max_words": 1}, "df"),
        ({"min_words": 3}, "ag"),
        ({"min_words": 3, "max_words": 2}, ""),
        ({"classes": [0, 1], "max_words": 3}, "abf"),
        ({"classes": [0], "caption_contains": "cat", "keys_file": ["f", "g"]}, "f"),
    ],
    ids=str,
)
def test_where_joins_its_fields_by_and(where: dict[str, Any], keys: str) -> None:
    assert "".join(row.key for row, passes in zip(ROWS, admits_of(where, ROWS), strict=True) if passes) == keys


@examples(200)
@given(st.lists(captions, max_size=8), st.integers(0, 4), st.integers(0, 4), st.text(min_size=1, max_size=2))
def test_words_and_substrings_are_the_oracles(texts: list[str], least: int, most: int, part: str) -> None:
    rows = [Row(f"{n}", None, text) for n, text in enumerate(texts)]
    for where in ({"min_words": least, "max_words": most}, {"caption_contains": part}):
        assert admits_of(where, rows) == [oracle.passes_where(where, row.key, None, row.caption) for row in rows]


def test_where_on_a_source_without_the_field_lets_nothing_through() -> None:
    bare = [Row("a", None, "x"), Row("b", None, "y")]
    assert admits_of({"classes": [0]}, bare) == [False, False]
    assert admits_of({"max_words": 9}, [Row("a", 0, None)]) == [False]
