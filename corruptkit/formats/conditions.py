"""Conditions as they stand in files: find a label or caption in a member, and put another in its place.

Every function is exact to the byte: what is not the value stays as it was. SPEC.md section 1, text and labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

FieldName = Literal["label", "caption"]
FIELDS: tuple[FieldName, ...] = ("label", "caption")
# What happens to a row in the end: the old and the new value of each field that differs.
RowEdit = Mapping[FieldName, tuple[str, str]]

_LABEL = re.compile(rb"((?:\xef\xbb\xbf)?[ \t\n\v\f\r]*)([0-9]+)([ \t\n\v\f\r]*)")
_SPACE = re.compile(r"[ \t\n\r]*")
_BEFORE_OBJECT = b"\xef\xbb\xbf \t\r\n"
_BACKSLASH = ord("\\")  # a single byte is found ten times as fast as two
_DECODER = json.JSONDecoder()
_TELLING = 4  # shorter texts stand everywhere by chance
_LARGEST_LABEL = 18  # digits that surely fit a signed 64-bit integer


class Columns(NamedTuple):
    """What holds each field: a column; in tars a member's suffix and, second, a top-level field of the .json."""

    label: str = ""
    caption: str = ""
    image: str = ""

    def suffix(self, field: FieldName) -> str:
        """The suffix of the member that holds a field, in lower case as the suffixes of all members are."""
        return (self.label or "cls" if field == "label" else self.caption or "txt").lower()

    def json_field(self, field: FieldName) -> str:
        """The field of the .json member that holds a field."""
        return self.label or "label" if field == "label" else self.caption or "caption"


class Span(NamedTuple):
    """A top-level value of a JSON object and where it stands in the text."""

    name: str
    value: Any
    start: int
    end: int


def read_label(content: bytes) -> str:
    """The digits of a label member; ValueError says what else is there."""
    match = _LABEL.fullmatch(content)
    if not match or len(match[2]) > _LARGEST_LABEL:
        shown = content[:40].decode(errors="backslashreplace")
        raise ValueError(f"the label {shown!r}")
    return str(int(match[2]))


def read_caption(content: bytes) -> str:
    """The text of a caption member, exactly; ValueError where it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a caption that is not UTF-8 at byte {error.start}") from None


@lru_cache(maxsize=2)  # writing asks for those of one member four times
def json_spans(content: bytes) -> tuple[str, list[Span]]:
    """The text of a JSON object and its top-level values with their places; ValueError where it is none."""
    try:
        text = content.decode("utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8")
        return text, list(_walk_object(text))
    except (ValueError, RecursionError, IndexError, StopIteration) as error:
        raise ValueError(f"a .json member that cannot be read: {type(error).__name__}") from None


def _object_spans(content: bytes) -> tuple[str, list[Span]]:
    """The same of a member that no condition was read from: one that is no object holds no field, and stays as it is."""
    try:
        return json_spans(content)
    except ValueError:
        return "", []


def _walk_object(text: str) -> Iterator[Span]:
    place = _skip(text, 0, "{")
    while text[place] != "}":
        if text[place] != '"':
            raise ValueError("no name")
        name, place = _DECODER.raw_decode(text, place)
        place = _skip(text, place, ":")
        value, end = _DECODER.raw_decode(text, place)
        yield Span(name, value, place, end)
        place = _space(text, end)
        if text[place] == ",":
            place = _space(text, place + 1)
            if text[place] == "}":
                raise ValueError("a comma without a name")
        elif text[place] != "}":
            raise ValueError("no comma")
    if _space(text, place + 1) != len(text):
        raise ValueError("text after the object")


def _space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None, "the pattern matches the empty text"
    return match.end()


def _skip(text: str, place: int, expected: str) -> int:
    place = _space(text, place)
    if text[place] != expected:
        raise ValueError(f"no {expected}")
    return _space(text, place + 1)


class _Source(NamedTuple):
    """Where a field is looked for: in a member of its own, else under a name in the .json."""

    field: FieldName
    suffix: str
    read: Callable[[bytes], str]
    name: str


@lru_cache(maxsize=64)
def _field_sources(columns: Columns) -> tuple[_Source, ...]:
    readers: dict[FieldName, Callable[[bytes], str]] = {"label": read_label, "caption": read_caption}
    return tuple(_Source(field, columns.suffix(field), readers[field], columns.json_field(field)) for field in FIELDS)


@lru_cache(maxsize=64)
def _spelling(name: str) -> bytes | None:
    """How a name is spelled in JSON unless by code points; None for one with further spellings, such as those of a slash."""
    return f'"{name}"'.encode() if re.fullmatch(r"[\w .:-]+", name, re.ASCII) else None


def _may_hold(content: bytes, name: str) -> bool:
    """Whether a .json has to be parsed for a field; one that seems cut, or followed by more, is parsed to be refused."""
    spelled = _spelling(name)
    return (
        spelled is None
        or spelled in content
        or content[:1] != b"{"
        or content[-1:] != b"}"
        or (_BACKSLASH in content and b"\\u00" in content)
    )


def _find_fields(content: bytes) -> Mapping[str, Any]:
    """The fields of a .json; one that holds no object, such as a list of boxes, has none."""
    begins = content.lstrip(_BEFORE_OBJECT)[:1]
    if begins in b'["-0123456789tfn':  # what begins like no JSON is packed or broken
        return {}
    try:
        fields: dict[str, Any] = _DECODER.decode(content.decode())
    except (ValueError, RecursionError):  # a BOM, or no object: this knows the one and names the other
        return {span.name: span.value for span in json_spans(content)[1]}
    return fields


@lru_cache(maxsize=1 << 10)
def condition_suffixes(suffixes: tuple[str, ...], columns: Columns) -> tuple[str, ...]:
    """Those of a sample's members that its label and caption stand in, or may stand in."""
    own = [columns.suffix(field) for field in FIELDS if columns.suffix(field) in suffixes]
    return tuple(own) if len(own) == len(FIELDS) or "json" not in suffixes else tuple({*own, "json"})


def find_conditions(members: Mapping[str, bytes], columns: Columns) -> dict[FieldName, str]:
    """The label (in decimal) and caption among a sample's members by suffix: in a member of their own, else in the .json."""
    found: dict[FieldName, str] = {}
    fields: Mapping[str, Any] | None = None
    for field, suffix, read, name in _field_sources(columns):
        if suffix in members and suffix != "json":
            found[field] = read(members[suffix])
        elif "json" in members and _may_hold(members["json"], name):
            fields = _find_fields(members["json"]) if fields is None else fields
            value = _as_condition(fields.get(name), field)
            if value is not None:
                found[field] = value
    return found


def _as_condition(value: object, field: FieldName) -> str | None:
    """A field's value in a .json: a text caption, or a label given as a non-negative integer or its digits."""
    if field == "caption":
        return _checked_text(value) if isinstance(value, str) else None
    if isinstance(value, str):
        return str(int(value)) if re.fullmatch(r"[0-9]{1,18}", value) else None
    return str(value) if type(value) is int and 0 <= value < 10**_LARGEST_LABEL else None


def _checked_text(text: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False:
        raise ValueError("a caption with a lone surrogate")
    return text


def holds_field(suffix: str, content: bytes, edit: RowEdit, columns: Columns) -> bool:
    """Whether a member holds a field of an edit: where it does, it is rewritten, and its original is kept."""
    if suffix != "json" and any(suffix == columns.suffix(field) for field in edit):
        return True
    spans = _object_spans(content)[1] if suffix == "json" and edit else []
    return any(_holds_value(span, field, columns) for field in edit for span in spans)


def _holds_value(span: Span, field: FieldName, columns: Columns) -> bool:
    """Whether a value is replaced with a field: a text is, even one that could be no condition, beside the member that is it."""
    if span.name != columns.json_field(field):
        return False
    return isinstance(span.value, str) if field == "caption" else _as_condition(span.value, field) is not None


def rewrite_member(suffix: str, content: bytes, edit: RowEdit, columns: Columns) -> bytes:
    """A member's content after an edit; the same where the edit does not concern it."""
    for field, (_, new) in edit.items():
        if suffix == columns.suffix(field) and suffix != "json":
            content = _LABEL.sub(rb"\g<1>%s\3" % new.encode(), content) if field == "label" else new.encode()
    return _rewrite_json(content, edit, columns) if suffix == "json" and edit else content


def _rewrite_json(content: bytes, edit: RowEdit, columns: Columns) -> bytes:
    if not holds_field("json", content, edit, columns):
        return content
    text, spans = _object_spans(content)
    out, place = [content[: len(content) - len(text.encode())]], 0  # a BOM stays
    for span in spans:
        for field, (_, new) in edit.items():
            if _holds_value(span, field, columns):
                value = int(new) if field == "label" and not isinstance(span.value, str) else new
                out += [text[place : span.start].encode(), json.dumps(value, ensure_ascii=text.isascii()).encode()]
                place = span.end
    return b"".join([*out, text[place:].encode()])


def telling_text(edit: RowEdit) -> str:
    """The old caption of an edit, if finding it would tell something: not a word or two, not part of the new one; else nothing."""
    old, new = edit.get("caption", ("", ""))
    return "" if len(old) < _TELLING or old in new else old


def chain_edits(below: RowEdit, own: RowEdit) -> RowEdit:
    """Two edits of a row as one: the first old values, the last new ones."""
    return {**below, **{name: (below.get(name, (old, ""))[0], new) for name, (old, new) in own.items()}}


def still_tells(values: Iterable[Any], edit: RowEdit) -> bool:
    """Whether the other columns of an edited row still hold the old caption: in a text, in texts within lists or records, in a member."""
    old = telling_text(edit)
    return bool(old) and any(
        tells_old(value, edit) if isinstance(value, bytes) else any(old in text for text in _find_texts(value)) for value in values
    )


def _find_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _find_texts(part)


def tells_old(content: bytes, edit: RowEdit) -> bool:
    """Whether a member still holds the old caption, as it is or as a .json spells it."""
    old = telling_text(edit)
    spellings = {old, *(json.dumps(old, ensure_ascii=escaped)[1:-1] for escaped in (True, False))}
    return bool(old) and any(text.encode() in content for text in spellings)
