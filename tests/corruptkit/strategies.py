"""What Hypothesis draws: rows with odd keys and conditions, recipes in every spelling, and indexes of rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from corruptkit.index import Index, ShardStat, make_index
from tests.corruptkit.shards import Row

Json = dict[str, Any]
SPACES = "\t\n\v\f\r "
# Characters that somebody's split, strip, lower or normalise would treat in a way of its own.
ODD = "\x1c\x85\xa0\u2028\u3000\ufeff\u200b\u00df\u1e9e\u0130\u0131\u017f\u212a\u00e9\u212b%\\\"'"


def examples(count: int) -> settings:
    """Settings for a property that is tried so many times; slow machines are no failure."""
    unheeded = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=unheeded)


def index_rows(
    rows: Sequence[Row], *, classes: int | None = None, shards: int = 1, key_rule: str = "sample", null_label: bool = False
) -> Index:
    """The index of rows that lie in no file, in the order given."""
    size = -(-len(rows) // shards)
    parts = [rows[number * size : (number + 1) * size] for number in range(shards)]
    stats = [ShardStat(name=f"shard-{n:05d}.tar", bytes=0, mtime_ns=0, rows=len(part), digest="") for n, part in enumerate(parts)]
    tables = [_row_table(part) for part in parts]
    return make_index(tables, stats, split="train", key_rule=key_rule, classes=classes, null_label=null_label, where="memory")


def _row_table(rows: Sequence[Row]) -> pa.Table:
    columns = {
        "key": pa.array([row.key for row in rows], pa.large_string()),
        "position": np.arange(len(rows)),
        "offset": np.zeros(len(rows), np.int64),
        "length": np.zeros(len(rows), np.int64),
        "label": pa.array([-1 if row.label is None else row.label for row in rows], pa.int64()),
        "caption": pa.array([row.caption for row in rows], pa.large_string()),
    }
    return pa.table(columns)


def oracle_rows(rows: Sequence[Row]) -> dict[str, tuple[int | None, str | None]]:
    """Rows as the oracle takes them."""
    return {row.key: (row.label, row.caption) for row in rows}


def recipe_table(recipe: Json) -> Json:
    """A canonical recipe as plain values that the library reads."""
    return {"seed": recipe["seed"], "chain": [dict(stage) for stage in recipe["chain"]]}


# Rows

_printable = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/.")
_names = st.one_of(
    st.text("abz019-_ ", min_size=1, max_size=5),
    st.text(_printable, min_size=1, max_size=6),
    st.sampled_from(["n01440764_10026", "a\u00e9", "ae\u0301", "日本", "e" * 60, "long " * 25, "😀" * 30, "%2E", "\\", "\u2028", "-", " "]),
)
_folders = st.lists(st.sampled_from(["a", "a.b", "v1.0", "ü", "x y", "d" * 90]), max_size=2)


@st.composite
def keys(draw: st.DrawFn) -> str:
    """A sample key: dots in its folders alone, no control characters, sometimes longer than a tar header's 100 bytes."""
    return "/".join([*draw(_folders), draw(_names)])


captions = st.one_of(
    st.sampled_from(
        ["a cat", "A  Cat", "A CAT ", "a dog", "straße", "STRASSE", "\u00e9", "e\u0301", "", " ", "\ufeffa cat", "a cat\n", "a\u00a0cat"]
    ),
    st.text(max_size=12),
    st.lists(st.sampled_from(["cat", "Cat", "DOG", "x", *SPACES, *ODD]), max_size=6).map("".join),
)


@st.composite
def sources(
    draw: st.DrawFn, *, least: int = 0, most: int = 24, gaps: bool = True, text: st.SearchStrategy[str] = captions
) -> tuple[list[Row], int]:
    """Rows and K, which may exceed every label. With `gaps`, rows lack label, caption or both, but some row has one of them."""
    classes = draw(st.sampled_from([1, 2, 3, 5, 10]))
    names = draw(st.lists(keys(), min_size=least, max_size=most, unique=True))
    labels = st.integers(0, classes - 1)
    kind = draw(st.sampled_from(["mixed", "labels", "captions", "equal"])) if gaps else "full"
    if kind == "equal":
        text = st.just(draw(text))
    rows = [Row(name, draw(labels), draw(text)) for name in names]
    if kind == "labels":
        rows = [row._replace(caption=None) for row in rows]
    elif kind == "captions":
        rows = [row._replace(label=None) for row in rows]
    elif kind == "mixed":
        rows = [row._replace(**dict.fromkeys(draw(st.sets(st.sampled_from(["label", "caption"]))))) for row in rows]
        if all(row.label is row.caption is None for row in rows):
            rows[:1] = [row._replace(label=0) for row in rows[:1]]
    return rows, classes


# Recipes

_SPELLINGS: list[Callable[[str], object]] = [
    str,
    lambda text: f"{text}0" if "." in text else f"{text}.00",
    float,
    Decimal,
    lambda text: f"{Decimal(text):e}",
]


@st.composite
def ratios(draw: st.DrawFn) -> tuple[str, object]:
    """A ratio in canonical text, and another way to write the same number."""
    whole = st.sampled_from(["0", "1"])
    part = st.tuples(st.integers(1, 999), st.just(3)) | st.tuples(st.integers(1, 99_999), st.just(5))
    text = draw(whole | part.map(lambda pair: format(Decimal(pair[0]).scaleb(-pair[1]).normalize(), "f")))
    return text, draw(st.sampled_from(_SPELLINGS))(text)


MODES = {
    "flip": ("uniform", "prior", "within", "pair", "matrix", "redraw"),
    "swap": ("any", "within", "far", "near"),
    "drop": ("caption", "label"),
    "constant": ("text", "template"),
    "words": ("mixed", "delete", "duplicate", "transpose", "replace"),
    "rewrite": ("table",),
}
KINDS = tuple(MODES)


def field_of(kind: str, mode: str) -> str:
    """The field that a mode of a kind corrupts."""
    return "label" if kind == "flip" or mode == "label" else "caption"


seeds = st.one_of(st.just("0"), st.integers(0, 2**70).map(str), st.integers(10**100, 10**101).map(str), st.just("0.e1"), st.just("7.e12"))
_weights = st.sampled_from(["0", "0", "1", "2.5", "0.001", "3", "1000000", "0.333333333333333333333"])


@st.composite
def _wheres(draw: st.DrawFn, rows: Sequence[Row], classes: int) -> Json | None:
    fields = draw(st.sets(st.sampled_from(["classes", "keys_file", "caption_contains", "min_words", "max_words"]), max_size=2))
    names = [row.key for row in rows]
    texts = [row.caption[:3] for row in rows if row.caption]
    values = {
        "classes": st.lists(st.integers(0, classes - 1), min_size=1, max_size=4).map(lambda found: sorted(set(found))),
        "keys_file": st.lists(st.sampled_from([*names, "nobody"]), max_size=12),
        "caption_contains": st.sampled_from(["a", " ", "CAT", *texts]),
        "min_words": st.integers(0, 3),
        "max_words": st.integers(0, 3),
    }
    return {field: draw(values[field]) for field in sorted(fields)} or None


def vectors_of(rows: Sequence[Row]) -> dict[str, list[float]]:
    """One set of embeddings for all recipes over the same keys: small numbers, so that many products are equal."""
    words = {row.key: row.key.encode() for row in rows}
    return {key: [sum(word) % 7 - 3, len(word) % 3 * 1e300, 0.5] for key, word in words.items()} | {"nobody": [1.0, 0.0, -0.5]}


@st.composite
def _tables(draw: st.DrawFn, rows: Sequence[Row], levels: int) -> list[list[Any]]:
    """A text for every row at every level, often the caption that the row has already, and cells that nobody asks for."""
    texts = draw(st.lists(captions, min_size=1, max_size=5))
    own = draw(st.integers(1, 6))
    cells = [(key, level) for key in (*(row.key for row in rows), "nobody/n") for level in range(1, levels + 1)]
    said = {row.key: row.caption for row in rows if row.caption is not None}
    return [[key, level, said.get(key, "") if n % own == 0 else texts[n % len(texts)]] for n, (key, level) in enumerate(cells)]


@st.composite
def stages(draw: st.DrawFn, rows: Sequence[Row], classes: int, kinds: Sequence[str] = KINDS) -> Json:
    """A stage as it stands in an identity, tables in full."""
    kind = draw(st.sampled_from(list(kinds)))
    has = {
        "label": any(row.label is not None for row in rows) or not rows,
        "caption": any(row.caption is not None for row in rows) or not rows,
    }
    modes = [mode for mode in MODES[kind] if has[field_of(kind, mode)]]
    stage: Json = {
        "kind": kind,
        "mode": draw(st.sampled_from(modes)),
        "ratio": draw(ratios())[0],
        "of": draw(st.sampled_from(["all", "eligible"])),
    }
    stage["where"] = draw(st.none() | _wheres(rows, classes))
    if (kind, stage["mode"]) == ("flip", "within"):
        members = draw(st.permutations(range(classes)))
        cuts = sorted(draw(st.sets(st.integers(1, classes), max_size=3)))
        stage["groups"] = [sorted(members[a:b]) for a, b in zip([0, *cuts], cuts, strict=False)]
    if stage["mode"] in ("far", "near"):
        stage["embeddings"] = vectors_of(rows)
    if kind == "words":
        stage["level"] = draw(st.integers(1, 5))
    if kind == "constant":
        stage["text"] = draw(captions.filter(bool)) if stage["mode"] == "text" else draw(st.sampled_from(["{}", "a photo of a {}.", "é{}"]))
    if kind == "rewrite":
        stage["levels"] = draw(st.sampled_from([1, 2, 5]))
        stage["table"] = draw(_tables(rows, stage["levels"]))
    if stage["mode"] == "template":
        stage["names"] = draw(st.lists(st.sampled_from(["cat", "dog", "日本", "{}", "A  Cat"]), min_size=classes, max_size=classes))
    elif stage["mode"] == "matrix":
        cells = draw(st.lists(st.lists(_weights, min_size=classes, max_size=classes), min_size=classes, max_size=classes))
        stage["matrix"] = [["0" if i == j else cell for j, cell in enumerate(row)] for i, row in enumerate(cells)]
    return stage


@st.composite
def recipes(draw: st.DrawFn, rows: Sequence[Row], classes: int, *, most: int = 3, kinds: Sequence[str] = KINDS) -> Json:
    """A seed and one to `most` stages, of kinds whose field some row has (of all kinds where there is no row)."""
    has = {
        "label": any(row.label is not None for row in rows) or not rows,
        "caption": any(row.caption is not None for row in rows) or not rows,
    }
    able = [kind for kind in kinds if any(has[field_of(kind, mode)] for mode in MODES[kind])]
    return {"seed": draw(seeds), "chain": draw(st.lists(stages(rows, classes, able), min_size=1, max_size=most))}
