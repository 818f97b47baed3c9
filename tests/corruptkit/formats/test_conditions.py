"""Conditions in files: what is a label or a caption, and that writing another leaves every other byte as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.formats.conditions import (
    Columns,
    find_conditions,
    holds_field,
    json_spans,
    read_caption,
    read_label,
    rewrite_member,
)
from tests.corruptkit.strategies import examples

BOM = b"\xef\xbb\xbf"
USUAL = Columns()


def conditions_of(parts: dict[str, bytes], columns: Columns = USUAL) -> dict[str, str]:
    return find_conditions(parts, columns)


def relabel(suffix: str, content: bytes, new: str, columns: Columns = USUAL) -> bytes:
    return rewrite_member(suffix, content, {"label": ("0", new)}, columns)


def recaption(suffix: str, content: bytes, new: str, columns: Columns = USUAL) -> bytes:
    return rewrite_member(suffix, content, {"caption": ("", new)}, columns)


# Label members

LABELS = {
    b"7": ("7", b"12"),
    b"007": ("7", b"12"),
    b"0": ("0", b"12"),
    b"7\n": ("7", b"12\n"),
    b"7\r\n": ("7", b"12\r\n"),
    b" \t\n\x0b\x0c\r7 \t\n\x0b\x0c\r": ("7", b" \t\n\x0b\x0c\r12 \t\n\x0b\x0c\r"),
    BOM + b"7": ("7", BOM + b"12"),
    BOM + b" 7\n": ("7", BOM + b" 12\n"),
    b"999999999999999999": ("999999999999999999", b"12"),
}
NO_LABELS = [b"", b" ", BOM, b"-1", b"+1", b"1.0", b"1e3", b"0x10", b"1 2", b"1\0", b"cat", b"7\xa0", b"\xff", "٣".encode(), "７".encode()]


@pytest.mark.parametrize(("content", "said"), [(content, label) for content, (label, _) in LABELS.items()])
def test_label_is_its_digits(content: bytes, said: str) -> None:
    assert read_label(content) == said


@pytest.mark.parametrize(("content", "after"), [(content, after) for content, (_, after) in LABELS.items()])
def test_rewritten_label_keeps_all_but_the_digits(content: bytes, after: bytes) -> None:
    assert relabel("cls", content, "12") == after
    assert recaption("cls", content, "12") == content


@pytest.mark.parametrize("content", [*NO_LABELS, BOM + BOM + b"7", b"7" + BOM, b"1" * 19, b"0" * 1000])
def test_other_content_is_no_label(content: bytes) -> None:
    with pytest.raises(ValueError, match="the label '"):
        read_label(content)


# Caption members


@pytest.mark.parametrize(
    "text", ["", " ", "a cat", "a cat\n", "a cat\r\n", "\ufeffa cat", " a  cat ", "é", "e\u0301", "😀", "a\0b", "\x1b[31m", "\u202e"]
)
def test_caption_is_its_exact_text(text: str) -> None:
    assert read_caption(text.encode()) == text
    assert conditions_of({"txt": text.encode()}) == {"caption": text}
    assert recaption("txt", b"before\n", text) == text.encode()


@pytest.mark.parametrize("content", [b"caf\xe9", b"\xff\xfea\0", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"a\xe2\x82"])
def test_caption_in_no_utf8_is_refused_with_its_place(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a caption that is not UTF-8 at byte \d"):
        read_caption(content)


# Which place holds a condition

RECORD = b'{"caption": "json", "label": 3, "other": "x"}'


@pytest.mark.parametrize(
    ("parts", "columns", "expected"),
    [
        ({"txt": b"text", "cls": b"1", "json": RECORD}, USUAL, {"caption": "text", "label": "1"}),
        ({"json": RECORD}, USUAL, {"caption": "json", "label": "3"}),
        ({"txt": b"text", "json": RECORD}, USUAL, {"caption": "text", "label": "3"}),
        ({"cls": b"1", "json": RECORD}, USUAL, {"caption": "json", "label": "1"}),
        ({"png": b"x"}, USUAL, {}),
        ({"txt": b"", "json": RECORD}, USUAL, {"caption": "", "label": "3"}),
        ({"txt": b"text", "json": b'{"caption": "json"}'}, Columns(caption="other"), {}),
        ({"txt": b"text", "json": RECORD}, Columns(caption="other"), {"caption": "x", "label": "3"}),
        ({"txt": b"text", "other": b"member", "json": RECORD}, Columns(caption="other"), {"caption": "member", "label": "3"}),
        ({"cls": b"1", "id": b"4"}, Columns(label="id"), {"label": "4"}),
        ({"cls": b"1", "json": RECORD}, Columns(label="other"), {"caption": "json"}),
        ({"json": b'{"caption": null, "label": null}'}, USUAL, {}),
        ({"json": b'{"caption": 5, "label": "cat"}'}, USUAL, {}),
        ({"json": b'{"caption": ["a"], "label": [1]}'}, USUAL, {}),
        ({"json": b'{"nested": {"caption": "a", "label": 1}}'}, USUAL, {}),
        ({"json": b'{"caption": "first", "caption": "last", "label": 1, "label": 2}'}, USUAL, {"caption": "last", "label": "2"}),
        ({"json": rb'{"capti\u006fn": "escaped name", "l\u0061bel": 5}'}, USUAL, {"caption": "escaped name", "label": "5"}),
        ({"json": rb'{"caption": "\ud83d\ude00"}'}, USUAL, {"caption": "😀"}),
        ({"json": BOM + b' \n{"caption":"a"}\n'}, USUAL, {"caption": "a"}),
        ({"json": b'{"caption": ""}'}, USUAL, {"caption": ""}),
    ],
)
def test_member_goes_before_json_and_flags_before_both(parts: dict[str, bytes], columns: Columns, expected: dict[str, str]) -> None:
    assert conditions_of(parts, columns) == expected


@pytest.mark.parametrize(
    ("value", "label"),
    [(0, "0"), (7, "7"), ("7", "7"), ("007", "7"), (10**18 - 1, "9" * 18), ("9" * 18, "9" * 18)]
    + [(value, None) for value in (True, False, -1, 1.0, 10**18, "9" * 19, "", "1 ", " 1", "-1", "1.0", "٣", None, [], {}, "cat")],
)
def test_json_label_is_an_integer_or_its_digits(value: object, label: str | None) -> None:
    assert conditions_of({"json": json.dumps({"label": value}).encode()}).get("label") == label


@pytest.mark.parametrize("text", [r'{"caption": "\ud800"}', r'{"caption": "a\udfffb"}', r'{"caption": "\udc00\ud800"}'])
def test_caption_with_a_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a caption with a lone surrogate"):
        conditions_of({"json": text.encode()})
    assert conditions_of({"json": text.encode(), "txt": b"a", "cls": b"1"}) == {"label": "1", "caption": "a"}
    assert rewrite_member("json", text.encode(), {"caption": ("a", "b")}, USUAL) == b'{"caption": "b"}', "beside a .txt it is a copy"


@pytest.mark.parametrize("parts", [{"cls": b"cat"}, {"txt": b"\xff"}, {"json": b"{"}, {"json": b"{}x"}])
def test_condition_that_cannot_be_read_is_no_missing_one(parts: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"label|caption|json"):
        conditions_of(parts)


def test_json_that_is_no_object_has_no_condition() -> None:
    assert conditions_of({"json": b" [1, 2]", "txt": b"a"}) == {"caption": "a"}


# The values of a JSON object

_texts = st.text(st.characters(), max_size=8)  # lone surrogates as well: JSON can hold them, escaped
_scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), _texts)
_values = st.recursive(
    _scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)), max_leaves=8
)
_names = st.one_of(st.sampled_from(["caption", "label", "other", ""]), _texts)
_space = st.text(" \t\n\r", max_size=3)


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """A JSON object as anyone might write it: repeated names, odd spaces, escapes or plain text, a BOM or none."""
    ascii_only = draw(st.booleans())
    items = []
    for name, value in draw(st.lists(st.tuples(_names, _values), max_size=5)):
        plain = json.dumps([name, value], ensure_ascii=False)
        escape = ascii_only or any("\ud800" <= c <= "\udfff" for c in plain)
        parts = [json.dumps(part, ensure_ascii=escape, indent=draw(st.sampled_from([None, 1]))) for part in (name, value)]
        items.append(f"{draw(_space)}{parts[0]}{draw(_space)}:{draw(_space)}{parts[1]}{draw(_space)}")
    text = f"{draw(_space)}{{{','.join(items) or draw(_space)}}}{draw(_space)}"
    return (BOM if draw(st.booleans()) else b"") + text.encode()


def decode_object(content: bytes) -> str:
    return content.decode("utf-8-sig" if content.startswith(BOM) else "utf-8")


def load_pairs(content: bytes) -> list[tuple[str, Any]]:
    """Names and values in order, repeated names too; only the outermost object is given as pairs."""
    pairs: list[tuple[str, Any]] = json.JSONDecoder(object_pairs_hook=list).decode(decode_object(content))
    return pairs


def as_pairs(value: object) -> object:
    """A value with its objects as lists of pairs."""
    if isinstance(value, dict):
        return [(name, as_pairs(item)) for name, item in value.items()]
    return [as_pairs(item) for item in value] if isinstance(value, list) else value


@examples(200)
@given(objects())
def test_spans_are_the_values_and_where_they_stand(content: bytes) -> None:
    text, spans = json_spans(content)
    assert text == decode_object(content)
    assert [(span.name, as_pairs(span.value)) for span in spans] == load_pairs(content)
    assert [json.loads(text[span.start : span.end]) for span in spans] == [span.value for span in spans]
    places = [place for span in spans for place in (span.start, span.end)]
    assert places == sorted(places)


@examples(300)
@given(
    content=objects(),
    place=st.integers(0, 200),
    change=st.one_of(st.none(), st.binary(min_size=1, max_size=2), st.sampled_from([b",", b"}", b'"', b"{"])),
)
def test_object_is_refused_where_the_standard_library_refuses_it(content: bytes, place: int, change: bytes | None) -> None:
    place %= len(content) + 1
    damaged = content[:place] + (change or b"") + content[place + (change is None) :]
    try:
        is_object = isinstance(json.loads(decode_object(damaged)), dict)
    except ValueError:
        is_object = False
    if is_object:
        assert {span.name: span.value for span in json_spans(damaged)[1]} == json.loads(decode_object(damaged))
    else:
        with pytest.raises(ValueError, match=r"a \.json member that cannot be read"):
            json_spans(damaged)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"[]",
        b"null",
        b'"caption"',
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":1,',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b"{a:1}",
        b"{1:2}",
        b"{'a':1}",
        b'{"a":1}}',
        b'{"a":1} {}',
        b'{"a":"\n"}',
        b'{"a":01}',
        b'{"a":1}\xff',
        b'{"a":"\xff"}',
        BOM + BOM + b"{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
    ],
    ids=range(26),
)
def test_what_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"a \.json member that cannot be read: \w+"):
        json_spans(content)


# A JSON member written anew

_captions = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.sampled_from(['"', "\\", "\n", "\u2028", "😀", "é", "</script>"])
)


@examples(200)
@given(content=objects(), new=_captions)
def test_rewritten_caption_leaves_all_other_bytes(content: bytes, new: str) -> None:
    text, spans = json_spans(content)
    held = [span for span in spans if span.name == "caption" and isinstance(span.value, str)]
    if any("\ud800" <= c <= "\udfff" for span in held for c in span.value):
        return  # such a caption is refused before anything is written
    after = recaption("json", content, new)
    pieces, place = [], 0
    for span in held:
        pieces.append(text[place : span.start].encode())
        place = span.end
    pieces.append(text[place:].encode())
    written = json.dumps(new, ensure_ascii=text.isascii()).encode()
    assert after == (BOM if content.startswith(BOM) else b"") + written.join(pieces)
    expected = [(name, new if name == "caption" and isinstance(value, str) else value) for name, value in load_pairs(content)]
    assert load_pairs(after) == expected


@examples(100)
@given(content=objects(), new=st.integers(0, 10**18 - 1).map(str))
def test_rewritten_label_keeps_its_type(content: bytes, new: str) -> None:
    after = relabel("json", content, new)
    for (name, before), (same, value) in zip(load_pairs(content), load_pairs(after), strict=True):
        assert name == same
        is_label = name == "label" and "label" in conditions_of({"json": json.dumps({"label": before}).encode()})
        assert value == ((new if isinstance(before, str) else int(new)) if is_label else before)
        assert type(value) is type(before)


def test_both_fields_are_rewritten_in_either_order() -> None:
    edit = {"label": ("3", "8"), "caption": ("json", "new")}
    assert rewrite_member("json", RECORD, edit, USUAL) == b'{"caption": "new", "label": 8, "other": "x"}'
    turned = b'{"label": 3, "x": [1, 2], "caption": "json"}'
    assert rewrite_member("json", turned, edit, USUAL) == b'{"label": 8, "x": [1, 2], "caption": "new"}'


def test_every_place_of_a_repeated_name_is_rewritten() -> None:
    assert recaption("json", b'{"caption": "a", "caption": "b"}', "c") == b'{"caption": "c", "caption": "c"}'


@pytest.mark.parametrize(
    ("content", "after"),
    [
        (rb'{"caption": "\u00e9"}', rb'{"caption": "\u65e5"}'),
        (b'{"caption": "e"}', rb'{"caption": "\u65e5"}'),
        ('{"caption": "é"}'.encode(), '{"caption": "日"}'.encode()),
        ('{"caption": "e", "other": "é"}'.encode(), '{"caption": "日", "other": "é"}'.encode()),
        (BOM + b'{"caption": "e"}\n', BOM + rb'{"caption": "\u65e5"}' + b"\n"),
        (rb'{"other": "\ud800", "caption": "e"}', rb'{"other": "\ud800", "caption": "\u65e5"}'),
        (b'{"caption": null}', b'{"caption": null}'),
        (b'{"caption": 5, "x": {"caption": "e"}}', b'{"caption": 5, "x": {"caption": "e"}}'),
    ],
)
def test_member_in_plain_ascii_stays_in_plain_ascii(content: bytes, after: bytes) -> None:
    assert recaption("json", content, "日") == after


@pytest.mark.parametrize("suffix", ["png", "jpg", "json.txt", "caption", "label", "seg.png"])
def test_other_members_stay_as_they_are(suffix: str) -> None:
    edit = {"label": ("3", "8"), "caption": ("json", "new")}
    assert rewrite_member(suffix, RECORD, edit, USUAL) == RECORD
    assert not holds_field(suffix, RECORD, edit, USUAL)


@pytest.mark.parametrize("content", [b"[1, 2]", b"[]", b'"text"', b"5", b"null", BOM + b"[]"])
def test_json_that_is_no_object_holds_no_field(content: bytes) -> None:
    """Boxes, say, beside .txt and .cls: nobody needs them for a condition, so nobody may stumble over them."""
    edit = {"label": ("3", "8"), "caption": ("json", "new")}
    assert not holds_field("json", content, edit, USUAL)
    assert rewrite_member("json", content, edit, USUAL) == content


@pytest.mark.parametrize(
    ("suffix", "content", "columns", "held"),
    [
        ("txt", b"", USUAL, {"caption"}),
        ("cls", b"1", USUAL, {"label"}),
        ("json", RECORD, USUAL, {"caption", "label"}),
        ("json", b'{"caption": "a"}', USUAL, {"caption"}),
        ("json", b'{"label": "12"}', USUAL, {"label"}),
        ("json", b'{"label": null, "caption": 5}', USUAL, set()),
        ("txt", b"", Columns(caption="alt"), set()),
        ("alt", b"", Columns(caption="alt"), {"caption"}),
        ("json", b'{"alt": "a", "caption": "b"}', Columns(caption="alt"), {"caption"}),
        ("json", b'{"caption": "b"}', Columns(caption="alt"), set()),
        ("json", b'{"label": null, "label": 5}', USUAL, {"label"}),
    ],
)
def test_member_holds_the_fields_that_it_would_change(suffix: str, content: bytes, columns: Columns, held: set[str]) -> None:
    for field, value in (("label", "8"), ("caption", "new")):
        edit = {field: ("", value)}
        assert holds_field(suffix, content, edit, columns) == (field in held)
        assert (rewrite_member(suffix, content, edit, columns) != content) == (field in held)
    assert not holds_field(suffix, content, {}, columns)
