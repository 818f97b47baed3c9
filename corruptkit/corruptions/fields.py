"""Field types that the kinds share: ratios, weights, groups, key files and `where`. SPEC.md sections 1, 3 and 5."""

from __future__ import annotations

import csv
import json
import operator
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationInfo, WithJsonSchema

from corruptkit.corruptions.rows import Ints, LabelLaw, Rows
from corruptkit.corruptions.texts import Texts, list_texts, read_texts
from corruptkit.digest import canonical_json, sha256_hex
from corruptkit.draws import Draws, rank_rows

_DECIMAL = re.compile(r"(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,3}))?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_DECIMAL = 1000
_LONGEST_INTEGER = 14_000  # bits that Python writes out in decimal without being told to
_CONFUSION = ["true", "predicted", "count"]
# What becomes one space; a space alone is one already, and matching each of them would take most of a plan's time.
_RUN = "[\t\n\v\f\r ]{2,}|[\t\n\v\f\r]"
WORD = "[^\t\n\v\f\r ]+"


def _shown_value(value: object) -> str:
    """A value as a person wrote it in TOML or JSON: decimals and dates without Python's types."""
    return str(value) if isinstance(value, Decimal | date) else repr(value)


def decimal_text(value: object) -> str:
    """A decimal as the text that stands in an identity: no exponent, no trailing zeros."""
    text = float.__repr__(value) if isinstance(value, float) else str(value).strip()
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal) or not _DECIMAL.fullmatch(text):
        raise ValueError(f"found {_shown_value(value)}, expected a decimal number such as 0.05")
    if len(text) > _LONGEST_DECIMAL:
        raise ValueError(f"found a number of {len(text)} characters, expected at most {_LONGEST_DECIMAL}")
    plain = format(Decimal(text), "f")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _ratio_text(value: object) -> str:
    text = decimal_text(value)
    if Fraction(text) > 1:
        raise ValueError(f"found {_shown_value(value)}, expected a ratio in [0, 1]")
    return text


def _seed_text(value: object) -> str:
    if hasattr(value, "__index__") and not isinstance(value, bool):
        value = operator.index(value)  # NumPy's integers too
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        raise ValueError("found an integer of thousands of digits, expected it as text")
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"[0-9]+(\.e[0-9]+)?", str(value)):
        raise ValueError(f"found {_shown_value(value)}, expected a seed: a non-negative integer")
    number, dot, epoch = str(value).partition(".e")
    return (number.lstrip("0") or "0") + dot + (epoch.lstrip("0") or "0" if dot else "")


def read_input(value: object, info: ValidationInfo) -> Path | None:
    """The path that a field names, relative to the recipe's folder; None where the field holds its content."""
    if isinstance(value, Path):
        return value
    folder = (info.context or {}).get("folder")
    return Path(folder or ".") / value if isinstance(value, str) else None


def _read_groups(value: object, info: ValidationInfo) -> object:
    path = read_input(value, info)
    groups = value if path is None else _load_json(path)
    if not isinstance(groups, list | tuple) or not all(isinstance(group, list | tuple) and group for group in groups):
        raise ValueError("expected groups as a list of non-empty lists of classes")
    members = [member for group in groups for member in group]
    if not all(type(member) is int and member >= 0 for member in members):
        raise ValueError("expected groups of non-negative integers")
    twice = sorted({member for member in members if members.count(member) > 1}) if len(set(members)) < len(members) else []
    if twice:
        raise ValueError(f"class {twice[0]} is in two groups, expected each class in one at most")
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _read_matrix(value: object, info: ValidationInfo) -> object:
    path = read_input(value, info)
    cells = value
    if path is not None:
        cells = _load_json(path) if path.suffix == ".json" else _spread_confusion(_load_csv(path))
    if not isinstance(cells, list | tuple) or not all(isinstance(row, list | tuple) and len(row) == len(cells) for row in cells):
        raise ValueError("expected a matrix of K rows with K weights each")
    return tuple(tuple("0" if i == j else decimal_text(cell) for j, cell in enumerate(row)) for i, row in enumerate(cells))


def _read_keys(value: object, info: ValidationInfo) -> object:
    path = read_input(value, info)
    keys = value if path is None else _load_text(path).split("\n")
    if not isinstance(keys, list | tuple | set | frozenset):
        raise ValueError("expected a path to a file with one key a line")
    for number, key in enumerate(keys, 1):
        if key != "" and (not isinstance(key, str) or _CONTROL.search(key) or key.startswith("\ufeff")):
            raise ValueError(f"found {key!r:.80} as key {number}, expected keys without control characters, line ends or a byte order mark")
    return tuple(sorted(set(keys) - {""}, key=str.encode))


def _read_names(value: object, info: ValidationInfo) -> object:
    path = read_input(value, info)
    names = value if path is None else _load_json(path)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("expected names as a list of texts, one for each class")
    return tuple(map(_whole_text, names))


def _read_table(value: object, info: ValidationInfo) -> object:
    if isinstance(value, Texts):
        return value
    path = read_input(value, info)
    table = value if path is None else read_texts(path)
    if isinstance(table, list | tuple):
        table = list_texts(table)
    if not isinstance(table, pa.Table):
        raise ValueError(f"found {value!r:.80}, expected a table: a path, or a list of [key, level, text]")
    return Texts.of(table)


def _whole_text(value: object) -> object:
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"found {value!r:.80}, expected no lone surrogate")
    return value


def _load_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"cannot read '{path}': {reason}; name a file that can be read") from None


def _load_json(path: Path) -> Any:
    try:
        return json.loads(_load_text(path), parse_float=Decimal, parse_int=_load_integer)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not JSON: {error}; mend the file") from None


def _load_integer(digits: str) -> int:
    if len(digits) > _LONGEST_DECIMAL:
        raise ValueError(f"found an integer of {len(digits)} characters, expected at most {_LONGEST_DECIMAL}")
    return int(digits)


def _load_csv(path: Path) -> list[list[str]]:
    try:
        return [row for row in csv.reader(_load_text(path).splitlines()) if row]
    except csv.Error as error:
        raise ValueError(f"'{path}' is not CSV: {error}; mend the file") from None


def _spread_confusion(lines: list[list[str]]) -> list[list[str]]:
    """The cells of a CSV: a matrix as it stands, or one made of lines of a true class, another class and a count."""
    header = [cell.strip("\ufeff ").lower() for cell in lines[0]] if lines else []
    if header != _CONFUSION:
        if set(header) >= set(_CONFUSION):
            raise ValueError(f"found the header {','.join(header)!r:.80}, expected true,predicted,count; put the columns in this order")
        return lines
    counts: dict[tuple[int, int], Fraction] = {}
    for number, line in enumerate(lines[1:], 2):
        if len(line) != 3 or not all(re.fullmatch(r" *[0-9]{1,4} *", cell) for cell in line[:2]):
            raise ValueError(f"found {','.join(line)!r:.80} in line {number}, expected a true class, another class and a count, in numbers")
        pair = int(line[0]), int(line[1])
        counts[pair] = counts.get(pair, Fraction(0)) + Fraction(decimal_text(line[2]))
    classes = max(map(max, counts), default=-1) + 1
    return [[_fraction_text(counts.get((i, j), Fraction(0))) for j in range(classes)] for i in range(classes)]


def _fraction_text(value: Fraction) -> str:
    """A sum of decimals, which has no more places than they have: a denominator of 2^a 5^b, of which the larger is their number."""
    twos, fives = ((value.denominator & -value.denominator).bit_length() - 1), 0
    rest = value.denominator >> twos
    while rest > 1:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}" if places else digits


Ratio = Annotated[str, BeforeValidator(_ratio_text)]
Seed = Annotated[str, BeforeValidator(_seed_text)]
Groups = Annotated[tuple[tuple[int, ...], ...], BeforeValidator(_read_groups)]
Matrix = Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_read_matrix)]
Keys = Annotated[tuple[str, ...], BeforeValidator(_read_keys)]
Names = Annotated[tuple[str, ...], BeforeValidator(_read_names)]
Table = Annotated[InstanceOf[Texts], BeforeValidator(_read_table), WithJsonSchema({"type": "array"})]
Text = Annotated[str, Field(strict=True, min_length=1), BeforeValidator(_whole_text)]
Class = Annotated[int, Field(strict=True, ge=0)]

# How content that an identity names by its digest is written down.
CANONICAL: dict[str, Callable[[Any], bytes]] = {
    "groups": canonical_json,
    "matrix": canonical_json,
    "names": canonical_json,
    "table": Texts.canonical,
    "keys_file": lambda keys: "".join(f"{key}\n" for key in keys).encode(),
}


def join_words(captions: pa.Array) -> pa.Array:
    """The words of each caption with one space between them."""
    return pc.utf8_trim(pc.replace_substring_regex(captions, _RUN, " "), " ")


class Where(BaseModel):
    """Which rows a stage may touch; the fields are joined by AND and judged on the stage's input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Annotated[tuple[Class, ...], BeforeValidator(lambda v: sorted(set(v)) if isinstance(v, list | tuple) else v)] | None = None
    keys_file: Keys | None = None
    caption_contains: Annotated[str, Field(min_length=1)] | None = None
    min_words: Annotated[int, Field(strict=True, ge=0)] | None = None
    max_words: Annotated[int, Field(strict=True, ge=0)] | None = None

    def admits(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows pass."""
        admitted = np.ones(len(rows), np.bool_)
        if self.classes is not None:
            admitted &= False if rows.labels is None else np.isin(rows.labels, self.classes)
        if self.keys_file is not None:
            admitted &= np.asarray(pc.is_in(rows.keys, pa.array(self.keys_file, pa.large_string())))
        if self.caption_contains is not None or self.min_words is not None or self.max_words is not None:
            admitted &= self._admits_captions(rows)
        return admitted

    def _admits_captions(self, rows: Rows) -> npt.NDArray[np.bool_]:
        if rows.captions is None:
            return np.zeros(len(rows), np.bool_)
        admitted = np.asarray(rows.captions.is_valid())
        if self.caption_contains is not None:
            admitted &= np.asarray(pc.fill_null(pc.match_substring(rows.captions, self.caption_contains), False))
        words = np.asarray(pc.fill_null(pc.count_substring_regex(rows.captions, WORD), 0))
        least = 0 if self.min_words is None else self.min_words
        return admitted & (words >= least) & (words <= (words if self.max_words is None else self.max_words))


class Choice(BaseModel):
    """The fields by which a kind says which rows it takes: SPEC.md section 3."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    ratio: Ratio
    of: Literal["all", "eligible"] = "all"
    where: Annotated[Where | None, BeforeValidator(lambda v: None if v == {} else v)] = None

    def count_rows(self, total: int, eligible: int) -> int:
        """n = floor(ratio * N + 1/2), capped at |E|."""
        population = total if self.of == "all" else eligible
        return min(eligible, floor(Fraction(self.ratio) * population + Fraction(1, 2)))

    def admits(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows `where` lets through."""
        return np.ones(len(rows), np.bool_) if self.where is None else self.where.admits(rows)

    def choose(self, rows: Rows, draws: Draws, able: npt.NDArray[np.bool_]) -> tuple[Ints, int, int]:
        """The first n of the eligible rows (those `able` that `where` admits) in the order of their ranking; |E|, and n."""
        eligible = np.flatnonzero(self.admits(rows) & able)
        count = self.count_rows(len(rows), len(eligible))
        return eligible[rank_rows(draws.of("rank", rows.hashes[eligible]), count)], len(eligible), count

    def label_law(self, rows: Rows) -> LabelLaw | None:
        """What the kind declares of the labels that it gives, on a stage's input; None where it gives none."""
        return None

    def identity(self) -> dict[str, Any]:
        """Every field, defaults written out; content stands by its SHA-256; `where` holds the given fields only."""
        return _by_digest(self) | {"where": self.where and _by_digest(self.where)}

    def inputs(self) -> list[bytes]:
        """The canonical form of all content that the identity names by digest."""
        models: list[BaseModel] = [self, self.where] if self.where else [self]
        return [CANONICAL[name](value) for model in models for name, value in model if name in CANONICAL and value is not None]


def _by_digest(model: BaseModel) -> dict[str, Any]:
    plain = model.model_dump(mode="json", exclude=set(CANONICAL))
    return {name: plain[name] if name in plain else _digest_of(name, value) for name, value in model if value is not None}


def _digest_of(name: str, value: Any) -> str:
    """The SHA-256 of content in its canonical form; that of a table is known since it was read."""
    return value.digest if isinstance(value, Texts) else sha256_hex(CANONICAL[name](value))
