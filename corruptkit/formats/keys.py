"""Key rules: how a layout yields a row's key. SPEC.md section 1."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from corruptkit.errors import CatalogError, DatasetError, Problem, nearest_word

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# The rules that each format can follow; a rule that ends in a colon takes an argument.
_TABLE_RULES = ("column:", "path", "stem", "regex:", "ordinal")
RULES = {
    "webdataset": ("sample", "stem", "shard/key", "ordinal", "regex:", "json:"),
    "parquet": _TABLE_RULES,
    "arrow": _TABLE_RULES,
    "imagefolder": ("path", "stem", "regex:", "column:", "ordinal"),
}
_ARGUMENTS = {"regex:": "regex:R", "json:": "json:FIELD", "column:": "column:NAME"}


# A sample's key of its sample key or path, its shard's file name, and its number in file order over all shards.
Keyer = Callable[[str, str, int], str | None]


def check_rule(rule: str, format: str = "webdataset") -> str:
    """A key rule that a format can follow; refused with the nearest valid word."""
    known = RULES[format]
    head, colon, argument = rule.partition(":")
    if not (head + colon in known and bool(colon) == bool(argument)):
        do = nearest_word(rule, [_ARGUMENTS.get(name, name) for name in known])
        raise CatalogError(Problem("--key", f"unknown key rule {rule!r} for {format}", do=do))
    if head == "regex":
        try:
            reason = "" if re.compile(argument).groups >= 1 else "it has no group"
        except re.error as error:
            reason = str(error)
        if reason:
            raise CatalogError(Problem("--key", f"the pattern of {rule!r} cannot be used: {reason}", do="put the key in one ( ) group"))
    return rule


def make_keyer(rule: str, file: str) -> Keyer:
    """The function that gives a sample's key; None for rules that need the sample's content. Messages call the shard `file`."""
    if rule.startswith("regex:"):
        return partial(_first_group, re.compile(rule.removeprefix("regex:")), file)
    return _KEYERS.get(rule, lambda *_: None)


_KEYERS: dict[str, Keyer] = {
    "sample": lambda sample, *_: sample,
    "path": lambda sample, *_: sample,
    "stem": lambda sample, *_: sample.rpartition("/")[2],
    "shard/key": lambda sample, shard, _: f"{shard.removesuffix('.tar')}/{sample}",
    "ordinal": lambda _, __, ordinal: f"row-{ordinal:012d}",
}


def _first_group(pattern: re.Pattern[str], file: str, sample: str, shard: str, ordinal: int) -> str:  # noqa: ARG001 - as every rule
    match = pattern.search(sample)
    if match is None or not match[1]:
        found = f"an empty group of {pattern.pattern!r}" if match and match[1] == "" else f"no match of {pattern.pattern!r}"
        raise DatasetError(Problem(file, found, "a key in every sample key", "mend the --key rule", key=sample))
    return match[1]


def key_fault(key: str) -> str:
    """What is wrong with a key, or an empty text: SPEC.md wants it non-empty, without control character, leading `/` or `..` part."""
    if not key:
        return "an empty key"
    if _CONTROL.search(key):
        return "a control character or a lone surrogate in a key"
    if key.startswith("/") or ".." in key.split("/"):
        return "a key that leaves its folder"
    return ""


def check_key(key: str, file: str) -> str:
    """A key as SPEC.md allows it."""
    if fault := key_fault(key):
        raise DatasetError(Problem(file, fault, "a key as SPEC.md section 1 allows it", "rename the sample", key=key))
    return key


def strip_suffix(path: str) -> str:
    """A path without the last suffix of its base name."""
    folder, slash, base = path.rpartition("/")
    stem, dot, _ = base.rpartition(".")
    return folder + slash + (stem if dot and stem else base)


def encode_key(key: str) -> str:
    """A key as the stem of a member: readers end a stem at the first dot of its base name, and need a base name."""
    folder, slash, base = key.rpartition("/")
    return folder + slash + (base.replace("%", "%25").replace(".", "%2E") or "%")


def decode_key(stem: str) -> str:
    """The key that `encode_key` made a stem of."""
    folder, slash, base = stem.rpartition("/")
    return folder + slash + ("" if base == "%" else base.replace("%2E", ".").replace("%25", "%"))
