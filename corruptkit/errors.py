"""What can go wrong, as a tree with one branch for each thing a person can do about it.

CorruptkitError
├── CatalogError     fix the file: a recipe, a catalog entry, a flag
├── DatasetError     fix the path or the data, or start the same command again to resume
├── IntegrityError   do not use it: bytes, digests or conditions are not what they claim to be
└── ConflictError    choose another target: something else lies there
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from pydantic import ValidationError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://\S+")  # with a bound, a key of a megabyte takes no square of its length
# Terminals act on these: a hostile member name or caption must not reach one through a message.
_SPECIAL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160))} | {
    c: f"\\u{c:04x}" for c in (0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000))
}


def escape_text(text: str) -> str:
    """Text from a file, safe to print: control characters and reordering marks are written out."""
    return text.translate(_SPECIAL)


def strip_secrets(text: str) -> str:
    """Text with its URLs bare of user info, query and fragment; bytes of a path that are no UTF-8 are written out."""
    return _URL.sub(lambda match: _bare_url(match[0]), text.encode(errors="backslashreplace").decode())


def _bare_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets without a partner: nothing tells what in it is secret
        return url.partition("://")[0] + "://"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


_LONGEST = 80
_MOST_WORDS = 20
_LONGEST_KEY = 200  # a pax header may give a member a name of a megabyte


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what was found, what was expected, what to do."""

    file: str
    found: str
    expected: str = ""
    do: str = ""
    key: str = ""

    def __str__(self) -> str:
        key = self.key if len(self.key) <= _LONGEST_KEY else f"{self.key[:_LONGEST_KEY]}..."
        where = f"{self.file}, {key}" if key else self.file
        text = f"{where}: {self.found}"
        text += f", expected {self.expected}" if self.expected else ""
        text += f"; {self.do}" if self.do else ""
        return escape_text(strip_secrets(text))

    def as_json(self) -> dict[str, str]:
        return {name: strip_secrets(value) for name, value in asdict(self).items()}


class CorruptkitError(Exception):
    """Everything that corruptkit raises on purpose; `problems` holds each thing that is wrong."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.problems  # a worker process hands the error back whole


class CatalogError(CorruptkitError):
    """A recipe, catalog file or flag is wrong: fix it."""


class DatasetError(CorruptkitError):
    """A source or its files are wrong: fix the path or the data, or resume."""


class IntegrityError(CorruptkitError):
    """Something is not what it claims to be: do not use it."""


class ConflictError(CorruptkitError):
    """The target holds something else: choose another."""


class LeftoverWarning(UserWarning):
    """A variant still tells an old condition, in a place that corruptkit does not rewrite."""


class TransferWarning(UserWarning):
    """More is read over the network than the table of a source: said before it begins."""


def nearest_word(word: str, valid: Iterable[str]) -> str:
    """The advice for a misspelt word: the nearest valid one, or all of them (of many, the first few)."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    if len(words) > _MOST_WORDS:
        return f"valid are {len(words)} words, such as: {', '.join(words[:3])}"
    return f"valid are: {', '.join(words)}"


def split_message(file: str, message: str, key: str = "") -> Problem:
    """The problem that a ValueError tells in words: `FOUND, expected EXPECTED; DO`."""
    found, _, expected = message.rpartition(", expected ")
    words, _, do = (expected if found else message).rpartition("; ")
    if found:
        return Problem(file, found, words or do, do if words else "", key=key)
    return Problem(file, words or do, "", do if words else "", key=key)


def validation_problems(
    error: ValidationError, file: str, fields: Mapping[str, Iterable[str]] | None = None, *, do: str = ""
) -> list[Problem]:
    """Turn pydantic's report into problems; `fields` gives the valid words of a table ("" is the top one), `do` the one advice for all."""
    details = error.errors(include_url=False)
    # A bad item makes pydantic call its list too short as well.
    details = [
        d for d in details if d["type"] != "too_short" or not any(e["loc"][: len(d["loc"])] == d["loc"] != e["loc"] for e in details)
    ]
    problems = [_one_problem(detail, file, fields or {}) for detail in details]
    return [replace(problem, do=do or problem.do or "mend the value") for problem in problems]


def _one_problem(detail: Any, file: str, fields: Mapping[str, Iterable[str]]) -> Problem:
    path = [str(part) for part in detail["loc"]]
    where = ".".join(path)
    if detail["type"] == "extra_forbidden":
        table = next((p for p in reversed(path[:-1]) if p in fields), "")
        return Problem(file, f"unknown field '{path[-1]}'", do=nearest_word(path[-1], fields.get(table, ())), key=where)
    if detail["type"] in ("missing", "union_tag_not_found"):
        name = "kind" if detail["type"] == "union_tag_not_found" else where
        return Problem(file, "a required field is missing", do=f"state {name}", key=where)
    if detail["type"] == "union_tag_invalid":
        valid = str(detail["ctx"]["expected_tags"]).replace("'", "").split(", ")
        tag = str(detail["ctx"]["tag"])
        return Problem(file, f"unknown kind '{tag}'", do=nearest_word(tag, valid), key=where)
    if detail["type"] == "literal_error":
        valid = str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return Problem(file, f"found {detail['input']!r}", do=nearest_word(str(detail["input"]), valid), key=where)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        if (
            not message.startswith(("found ", "unknown "))
            and isinstance(detail["input"], str | int)
            and str(detail["input"]) not in message
        ):
            message = f"found {detail['input']!r:.80}, {message}"
        return split_message(file, f"{message[:1].lower()}{message[1:]}", where)
    # pydantic's own words, of Python's types: people write lists, and read what was found first.
    expected = (
        message.removeprefix("Input should be ").replace("Tuple", "list").replace("tuple", "list").replace(" after validation, not 0", "")
    )
    return Problem(file, f"found {_shown(detail['input'])}", f"{expected[:1].lower()}{expected[1:]}", key=where)


def _shown(value: object) -> str:
    """A value from a file as a person wrote it: a decimal without its type."""
    text = str(value) if type(value).__name__ == "Decimal" else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
