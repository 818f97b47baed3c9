"""Sources on disk, each with a recipe: one that has everything, and those that Hypothesis draws."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from corruptkit.dataset import Dataset
from corruptkit.manifest import Manifest
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import parse_recipe
from corruptkit.write import Format, write_variant
from tests.corruptkit import oracle
from tests.corruptkit.shards import Row, make_rows, write_shards
from tests.corruptkit.strategies import oracle_rows, recipes, sources, vectors_of

Json = dict[str, Any]
MEMBERS = [("png", "txt", "cls", "json"), ("json", "jpg"), ("cls", "txt", "npy", "png"), ("txt", "webp", "seg.png")]
CHAIN = {
    "seed": "3",
    "chain": [
        {"kind": "flip", "mode": "prior", "ratio": "0.3", "of": "all", "where": None},
        {"kind": "swap", "mode": "any", "ratio": "0.4", "of": "eligible", "where": {"classes": [0, 1, 2]}},
        {
            "kind": "flip",
            "mode": "within",
            "ratio": "0.25",
            "of": "all",
            "where": {"keys_file": [f"{i:09d}" for i in range(40)]},
            "groups": [[0, 1], [2, 3]],
        },
    ],
}


class Case(NamedTuple):
    """A source on disk and a recipe for it."""

    rows: list[Row]
    classes: int
    recipe: Json
    members: Sequence[str]
    folder: Path  # the source lies in folder / "source"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def embeddings(self) -> Path:
        """The embeddings that its recipes may name, as a file."""
        vectors = vectors_of(self.rows)
        table = pa.table({"key": [*vectors], "embedding": pa.array(vectors.values(), pa.list_(pa.float64()))})
        pq.write_table(table, self.folder / "embeddings.parquet")
        return self.folder / "embeddings.parquet"

    def edited(self) -> list[Row]:
        """The rows as the oracle leaves them."""
        left = oracle.apply_edits(oracle_rows(self.rows), oracle.plan_edits(self.recipe, oracle_rows(self.rows), self.classes))
        return [row._replace(label=left[row.key][0], caption=left[row.key][1]) for row in self.rows]

    def make(self, name: str, form: Format = "webdataset", **how: Any) -> Path:
        make_variant(self.recipe, open_dataset(self.source, classes=self.classes), self.folder / name, form, **how)
        return self.folder / name


def make_variant(recipe: Json, dataset: Dataset, out: Path, form: Format = "webdataset", **how: Any) -> tuple[Plan, Manifest]:
    plan = make_plan(parse_recipe(recipe, "test"), dataset.index())
    return plan, write_variant(dataset, plan, out, form, **how)


@st.composite
def draw_cases(draw: st.DrawFn, factory: pytest.TempPathFactory) -> Case:
    members = draw(st.sampled_from(MEMBERS))
    rows, classes = draw(sources(least=1, gaps="json" in members or "cls" in members))
    if "cls" not in members and "json" not in members:
        rows = [row._replace(label=None) for row in rows]
    kinds = {"flip": "cls" in members or "json" in members, "swap": True, "drop": True, "constant": True, "words": True, "rewrite": True}
    recipe = draw(recipes(rows, classes, kinds=[kind for kind, able in kinds.items() if able]))
    folder = factory.mktemp("law")
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    write_shards(folder / "source", rows, shards=draw(st.integers(1, 3)), members=members, form=form)
    return Case(rows, classes, recipe, members, folder)


def full_case(folder: Path) -> Case:
    """Three shards with side-cars, counts and a licence, and a chain of three stages."""
    rows = make_rows(60, classes=4, captions=7)
    made = Case(rows, 4, CHAIN, MEMBERS[0], folder)
    write_shards(made.source, rows, shards=3, members=made.members)
    for number in range(3):
        part = rows[number * 20 : (number + 1) * 20]
        table = {
            "key": [row.key for row in part],
            "caption": [row.caption for row in part],
            "label": [row.label for row in part],
            "status": ["success"] * 20,
        }
        pq.write_table(pa.table(table), made.source / f"shard-{number:05d}.parquet")
    (made.source / "LICENSE.txt").write_bytes(b"CC0\r\n")
    (made.source / "shard-00000_stats.json").write_text('{"count": 20}')
    return made
