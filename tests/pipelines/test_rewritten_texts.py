"""pipelines/rewritten_texts.py: which text is in a reply, and what is none."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

clean_reply = runpy.run_path(str(Path(__file__).parents[2] / "pipelines" / "rewritten_texts.py"))["clean_reply"]
CLEANED = [
    ("a red cat", "a red cat"),
    ("  a red cat\n", "a red cat"),
    ('"a red cat"', "a red cat"),
    ("\u201ca red cat\u201d", "a red cat"),
    ("'a red cat'", "a red cat"),
    ('"a cat" and "a dog"', '"a cat" and "a dog"'),
    ("'tis the dog's", "'tis the dog's"),
    ('{"caption": "a red cat"}', "a red cat"),
    ('{"text": "a \\"red\\" cat"}', 'a "red" cat'),
    ('```json\n{"caption": "a red cat"}\n```', "a red cat"),
    ("```\na red cat\n```", "a red cat"),
    ("{a red cat}", "{a red cat}"),
    ("日本の猫", "日本の猫"),
]
REFUSED = [
    ("", "empty"),
    ('""', "empty"),
    ("``````", ""),
    ("a\nb", "of several lines or with control characters"),
    ("a\u2028b", "of several lines or with control characters"),
    ("\ud800", "of several lines or with control characters"),
    ('{"caption": "a\\nb"}', "of several lines or with control characters"),
    ("the cat", "the caption itself"),
    (' "the  cat" ', "the caption itself"),
    ("x" * 201, "too long"),
]


@pytest.mark.parametrize(("reply", "text"), CLEANED)
def test_text_of_a_reply(reply: str, text: str) -> None:
    assert clean_reply(reply, "the cat") == (text, "")


@pytest.mark.parametrize(("reply", "fault"), REFUSED)
def test_reply_that_is_no_text(reply: str, fault: str) -> None:
    assert clean_reply(reply, "the cat")[1] == fault


def test_quotes_of_the_caption_stay() -> None:
    assert clean_reply('"a dog"', '"a cat"') == ('"a dog"', "")
    assert clean_reply("x" * 1000, "x " * 300) == ("x" * 1000, "")
