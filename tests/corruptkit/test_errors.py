"""Errors: one line a problem that says where, what, what was expected and what to do, and nothing that a terminal acts on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import corruptkit as ck
from corruptkit.engines.local import map_shards
from corruptkit.errors import (
    CatalogError,
    ConflictError,
    CorruptkitError,
    DatasetError,
    IntegrityError,
    Problem,
    escape_text,
    nearest_word,
    validation_problems,
)
from tests.corruptkit.shards import make_rows, write_shards
from tests.corruptkit.strategies import examples

FOUR = (CatalogError, DatasetError, IntegrityError, ConflictError)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("a.tar", "it is broken"), "a.tar: it is broken"),
        (Problem("a.tar", "it is broken", key="007"), "a.tar, 007: it is broken"),
        (Problem("a.tar", "2 rows", "3"), "a.tar: 2 rows, expected 3"),
        (Problem("a.tar", "2 rows", do="fetch it anew"), "a.tar: 2 rows; fetch it anew"),
        (Problem("a.tar", "2 rows", "3", "fetch it anew", "007"), "a.tar, 007: 2 rows, expected 3; fetch it anew"),
        (Problem("a\n.tar", "\x1b[31m", "\x00", "\x9b", "\u202e"), r"a\x0a.tar, \u202e: \x1b[31m, expected \x00; \x9b"),
    ],
)
def test_problem_is_one_line(problem: Problem, text: str) -> None:
    assert str(problem) == text
    assert str(DatasetError(problem)) == text


def test_problem_has_its_fields_in_json() -> None:
    assert Problem("a", "b", "c", "d", "e").as_json() == {"file": "a", "found": "b", "expected": "c", "do": "d", "key": "e"}
    assert Problem("a", "b").as_json() == {"file": "a", "found": "b", "expected": "", "do": "", "key": ""}


def test_error_has_a_line_for_each_problem() -> None:
    error = CatalogError(Problem("a", "x\ny"), Problem("b", "z"))
    assert str(error) == "a: x\\x0ay\nb: z"
    assert error.problems == (Problem("a", "x\ny"), Problem("b", "z"))


# What a terminal would act on: C0 and C1 controls, delete, marks that reorder text, half of a surrogate pair.
ACTIVE = [*range(0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xDFFF]


@pytest.mark.parametrize("code", ACTIVE, ids=hex)
def test_active_character_is_written_out(code: int) -> None:
    text = escape_text(f"a{chr(code)}b")
    assert text.isprintable()
    assert text.encode().decode("unicode_escape") == f"a{chr(code)}b"


@examples(200)
@example("a\u2028b\u2029c\x85d\x1ce")
@given(st.text(st.characters()))
def test_escaped_text_is_one_line_of_utf8(text: str) -> None:
    found = escape_text(text)
    found.encode()
    assert len(found.splitlines()) <= 1
    assert not any(ord(c) in ACTIVE for c in found)


@pytest.mark.parametrize("text", ["plain", "é 日本 😀 e\u0301", "a\\x1b", " ", "👩\u200d🚀"])
def test_harmless_text_stays(text: str) -> None:
    assert escape_text(text) == text


# The tree


def test_four_kinds_of_error_have_one_root() -> None:
    assert all(issubclass(kind, CorruptkitError) for kind in FOUR)
    assert set(CorruptkitError.__subclasses__()) == set(FOUR)
    assert not any(issubclass(a, b) for a in FOUR for b in FOUR if a is not b)


@pytest.mark.parametrize("kind", FOUR)
def test_error_survives_pickling(kind: type[CorruptkitError]) -> None:
    error = kind(Problem("a", "b", "c", "d", "e"), Problem("f", "g"))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(again), again.problems, str(again)) == (kind, error.problems, str(error))


def fail_task(item: int) -> int:
    if item == 2:
        raise IntegrityError(Problem("shard", f"item {item}", do="do not use it"))
    return item


@pytest.mark.parametrize("workers", [1, 2])
def test_error_comes_back_whole_from_a_worker(workers: int) -> None:
    found = map_shards(fail_task, range(5), workers)
    assert [next(found), next(found)] == [0, 1], "what came before the error counts"
    with pytest.raises(IntegrityError) as caught:
        next(found)
    assert caught.value.problems == (Problem("shard", "item 2", do="do not use it"),)


def test_readers_raise_what_the_root_names(tmp_path: Path) -> None:
    with pytest.raises(ck.DatasetError):
        ck.open_dataset(tmp_path / "nowhere")
    with pytest.raises(ck.CatalogError):
        ck.open_dataset(write_shards(tmp_path / "source", make_rows(1)), key="sampel")


# Advice


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("swop", "did you mean 'swap'?"),
        ("FLIP", "valid are: flip, swap"),
        ("", "valid are: flip, swap"),
        ("rotate", "valid are: flip, swap"),
    ],
)
def test_advice_is_the_nearest_word_or_all(word: str, said: str) -> None:
    assert nearest_word(word, {"swap", "flip"}) == said


def test_advice_of_many_words_names_a_few() -> None:
    words = [f"word-{n:03d}" for n in range(21)]
    assert nearest_word("zzz", words) == "valid are 21 words, such as: word-000, word-001, word-002"
    assert nearest_word("zzz", words[:20]) == f"valid are: {', '.join(words[:20])}"
    assert nearest_word("word-00", words) in {f"did you mean '{word}'?" for word in words}


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    classes: list[int] = Field(min_length=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    mode: Literal["any", "some"]
    where: Inner


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"mode": "any", "where": {"classes": [1]}, "moode": 1}, ["f, moode: unknown field 'moode'; did you mean 'mode'?"]),
        ({"mode": "any", "where": {"classes": [1], "clases": 1}}, ["f, where.clases: unknown field 'clases'; did you mean 'classes'?"]),
        ({"where": {"classes": [1]}}, ["f, mode: a required field is missing; state mode"]),
        ({"mode": "any", "where": {}}, ["f, where.classes: a required field is missing; state where.classes"]),
        ({"mode": "ani", "where": {"classes": [1]}}, ["f, mode: found 'ani'; did you mean 'any'?"]),
        ({"mode": 5, "where": {"classes": [1]}}, ["f, mode: found 5; valid are: any, some"]),
        (
            {"mode": "any", "where": {"classes": ["x"]}},
            ["f, where.classes.0: found 'x', expected a valid integer, unable to parse string as an integer; mend the value"],
        ),
        ({}, ["f, mode: a required field is missing; state mode", "f, where: a required field is missing; state where"]),
    ],
)
def test_report_of_a_model_becomes_problems(table: dict, said: list[str]) -> None:
    fields = {"": Outer.model_fields, "where": Inner.model_fields}
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(table)
    assert [str(problem) for problem in validation_problems(caught.value, "f", fields)] == said
