"""Key rules: how a layout yields a row's key. SPEC.md section 1."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from corruptkit.errors import CatalogError, DatasetError, Problem, nearest_word

_PREFIXED = ("regex:", "json:")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Place(NamedTuple):
    """Where a sample stands: its sample key, its shard's file name, and its number in file order over all shards."""

    sample: str
    shard: str
    ordinal: int


def check_rule(rule: str) -> str:
    """A key rule that WebDataset shards can follow; refused with the nearest valid word."""
    if rule in _KEYERS or (rule.startswith(_PREFIXED) and rule.split(":", 1)[1]):
        if rule.startswith("regex:"):
            try:
                if re.compile(rule.removeprefix("regex:")).groups >= 1:
                    return rule
                reason = "it has no group"
            except re.error as error:
                reason = str(error)
            raise CatalogError(Problem("--key", f"the pattern of {rule!r} cannot be used: {reason}", do="put the key in one ( ) group"))
        return rule
    do = nearest_word(rule, [*_KEYERS, "regex:R", "json:FIELD"])
    raise CatalogError(Problem("--key", f"unknown key rule {rule!r} for WebDataset shards", do=do))


def make_keyer(rule: str) -> Callable[[Place], str | None]:
    """The function that gives a sample's key; None for `json:FIELD`, which needs the sample's content."""
    if rule.startswith("regex:"):
        return partial(_first_group, re.compile(rule.removeprefix("regex:")))
    return _KEYERS.get(rule, lambda _: None)


_KEYERS: dict[str, Callable[[Place], str]] = {
    "sample": lambda place: place.sample,
    "stem": lambda place: place.sample.rpartition("/")[2],
    "shard/key": lambda place: f"{place.shard.removesuffix('.tar')}/{place.sample}",
    "ordinal": lambda place: f"row-{place.ordinal:012d}",
}


def _first_group(pattern: re.Pattern[str], place: Place) -> str:
    match = pattern.search(place.sample)
    if match is None or match[1] is None:
        found = f"no match of {pattern.pattern!r}"
        raise DatasetError(Problem(place.shard, found, "a key in every sample key", "mend the --key rule", key=place.sample))
    return match[1]


def check_key(key: str, file: str) -> str:
    """A key as SPEC.md allows it: non-empty, no control character, no leading `/`, no `..` part."""
    reason = ""
    if not key:
        reason = "an empty key"
    elif _CONTROL.search(key):
        reason = "a control character or a lone surrogate in a key"
    elif key.startswith("/") or ".." in key.split("/"):
        reason = "a key that leaves its folder"
    if reason:
        raise DatasetError(Problem(file, reason, "a key as SPEC.md section 1 allows it", "rename the sample", key=key))
    return key
