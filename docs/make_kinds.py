"""Writes docs/kinds.md: what each kind and mode does, shown on OpenMoji: `python docs/make_kinds.py data/openmoji`.

A test fails where the page is stale.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corruptkit as ck

_HEADER = """# Kinds and modes, by example

Made from the code by `python docs/make_kinds.py data/openmoji`; do not edit. Each table shows the first three edits of a recipe's one stage
over OpenMoji (3,953 captions, 10 classes), seed 0; [SPEC.md](../SPEC.md) says exactly which rows and values. `of` and `where` go with every
kind, and stages of any kinds make a chain.
"""
_CATALOG = Path(__file__).parents[1] / "catalog" / "sources" / "openmoji.toml"
_NAMES: list[str] = tomllib.loads(_CATALOG.read_text(encoding="utf-8"))["class_names"]
# What a stage states besides its kind and its ratio, and the words that say what that does.
_STAGES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "flip"}, "any other class, all alike"),
    ({"kind": "flip", "mode": "prior"}, "another class by its frequency: the paper's symmetric noise"),
    ({"kind": "flip", "mode": "within", "groups": [[1, 4], [5, 8], [6, 7]]}, "a class of the same group: the paper's asymmetric noise"),
    ({"kind": "flip", "mode": "pair"}, "the next class"),
    (
        {"kind": "flip", "mode": "matrix", "matrix": [["1" if j == 3 else "0.1" for j in range(10)] for _ in range(10)]},
        "by weights, here ten to one for class 3; `--matrix` also takes a confusion in CSV, `true,predicted,count`",
    ),
    ({"kind": "flip", "mode": "redraw"}, "any class, the true one too, which then is no edit"),
    ({"kind": "swap"}, "captions exchanged in pairs: the paper's noise of captions"),
    ({"kind": "swap", "mode": "within"}, "with a row of the same class"),
    ({"kind": "swap", "mode": "far"}, "with the farthest of 64 by embeddings, here counts of letters"),
    ({"kind": "swap", "mode": "near"}, "with the nearest of 64 by the same embeddings"),
    ({"kind": "drop"}, "the empty caption, as for guidance without a classifier"),
    ({"kind": "drop", "mode": "label"}, "the null label K, which the variant declares"),
    ({"kind": "constant", "text": "a picture"}, "one caption for all"),
    ({"kind": "constant", "mode": "template", "text": "a picture of {}"}, "the name of the class, in place of `{}`"),
    *[
        ({"kind": "words", "mode": mode, "level": 3}, f"{text}, three tenths of them")
        for mode, text in (
            ("mixed", "words edited in one of the four ways"),
            ("delete", "words taken out"),
            ("duplicate", "words said twice"),
            ("transpose", "words exchanged with the next"),
            ("replace", "words exchanged for others of the source, by their frequency"),
        )
    ],
    (
        {"kind": "rewrite"},
        (
            "the text of a table for the key, at a level that each row draws: the paper's rewritten captions. This one says what was\n"
            "drawn; `pipelines/rewrite_captions.py` has a language model fill one"
        ),
    ),
]


def write_page(folder: Path) -> str:
    """The whole page, from the data set in a folder."""
    source = ck.open_dataset(folder)
    return "\n".join([_HEADER, *(line for stage, text in _STAGES for line in _write_stage(source, dict(stage), text))])


def _write_stage(source: ck.Dataset, stage: dict[str, Any], text: str) -> Iterator[str]:
    index = source.index()
    said = ", ".join(f"{name} = {value!r}".replace("'", '"') for name, value in stage.items() if name in ("mode", "text", "level"))
    if stage.get("mode") in ("far", "near"):
        stage["embeddings"] = count_letters(index.rows().captions.to_pylist(), index.rows().keys.to_pylist())
    if stage.get("mode") == "template":
        stage["names"] = _NAMES
    if stage["kind"] == "rewrite":
        keys = index.rows().keys.to_pylist()
        stage["table"] = [[key, level, f"(what was written for {key} at level {level})"] for key in keys for level in range(1, 6)]
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[{"ratio": "0.05", **stage}]), index)
    yield f"## {stage['kind']}{f', {said}' if said else ''}\n\n{text[0].upper()}{text[1:]}.\n"
    yield "| key | old | new |\n|---|---|---|"
    edits = plan.edits.sort_by("rank").slice(0, 4 if stage["kind"] == "swap" else 3)
    for row in edits.to_pylist():
        old, new = (_name_class(row[side]) if row["field"] == "label" else row[side] for side in ("old", "new"))
        yield f"| {row['key']} | {old} | {new} |"
    yield ""


def _name_class(label: str) -> str:
    return f"{label} {_NAMES[int(label)]}" if int(label) < len(_NAMES) else f"{label} (none)"


def count_letters(captions: list[str], keys: list[str]) -> dict[str, list[int]]:
    """A vector for each row: how often each letter stands in its caption, and one for the rest."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return {key: [*(caption.lower().count(letter) for letter in letters), 1] for key, caption in zip(keys, captions, strict=True)}


if __name__ == "__main__":
    (Path(__file__).parent / "kinds.md").write_text(write_page(Path(sys.argv[1])), encoding="utf-8")
