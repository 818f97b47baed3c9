"""The names of splits: the words for the usual ones, and what a name may be."""

from __future__ import annotations

import re

from corruptkit.errors import DatasetError, Problem

# The words by which published sets name their splits.
_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_TOKEN = re.compile(r"[a-z]+")
_SLICE = re.compile(r"[\[+(]")
_NAME = re.compile(r"\w[\w-]*(?:\.[\w-]+)*")
_LONGEST = 100  # bytes: the names of shards hold it, and a file's name has 255
NAME_RULE = f"letters, digits, '_', '-' and single dots, at most {_LONGEST} bytes"


def is_split(name: str) -> bool:
    """Whether a name can be a split's: it becomes a part of file names, whoever chose it."""
    return bool(_NAME.fullmatch(name)) and len(name.encode()) <= _LONGEST


def check_split(name: str, where: str) -> str:
    """A split that a flag or a file names, under its usual name. Raises DatasetError where no file can be named so."""
    if not is_split(name):
        raise DatasetError(Problem(where, f"the split {name!r:.60}", NAME_RULE, "name the split otherwise"))
    return _WORDS.get(name, name)


def stated_split(name: str, where: str) -> str:
    """A split that `datasets` states: of a slice or a sum of splits, `train[:4]`, the first word."""
    return check_split(_SLICE.split(name)[0], where)


def asked_split(split: str | None) -> str | None:
    """What `--split` names, under its usual name; None where it is left out."""
    return None if split is None else check_split(split, "--split")


def split_word(name: str) -> str | None:
    """The split that a file's name tells by one of the usual words."""
    return next((_WORDS[word] for word in _TOKEN.findall(name.lower()) if word in _WORDS), None)


def folder_split(name: str) -> str | None:
    """The split that a folder is, by its whole name."""
    return _WORDS.get(name.lower())
