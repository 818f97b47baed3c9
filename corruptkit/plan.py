"""The plan: every decision of a recipe over a source, as a table of edits. SPEC.md sections 3 to 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.corruptions import Decision, Rows
from corruptkit.corruptions.rows import Ints, as_text
from corruptkit.digest import variant_id
from corruptkit.edits import compose_edits, digest_edits
from corruptkit.errors import CatalogError, DatasetError, Problem, split_message
from corruptkit.formats.overlay import EDITS
from corruptkit.index import Index
from corruptkit.manifest import CountRecord, Identity, SourceIdentity, StageRecord
from corruptkit.recipe import Recipe

SPEC_VERSION: Literal[1] = 1
_TEXT = pa.large_string()


@dataclass(frozen=True)
class Plan:
    """All edits of a recipe over a source, and what identifies them."""

    recipe: Recipe
    source: SourceIdentity
    edits: pa.Table
    stages: tuple[StageRecord, ...]
    shortfalls: tuple[Problem, ...] = ()  # caps that bit and pairs that were not there
    excluded: int = 0  # samples of the source that are no rows

    @cached_property
    def identity(self) -> Identity:
        """What a variant is, apart from its images."""
        return {
            "spec": SPEC_VERSION,
            "source": self.source,
            "recipe": self.recipe.identity(),
            "edits": self.edits.num_rows,
            "plan_digest": digest_edits(self.edits),
        }

    @cached_property
    def variant_id(self) -> str:
        """16 hex digits that name the conditions of the variant."""
        return variant_id(self.identity)

    @cached_property
    def composed(self) -> pa.Table:
        """One row for each (row, field) that differs in the end: key, field, old, new."""
        return compose_edits(self.edits)

    def counts(self) -> CountRecord:
        """The counts of a manifest."""
        changed, rows = len(pc.unique(self.composed["key"])), self.source["rows"]
        return CountRecord(
            rows=rows, excluded=self.excluded, stages=self.stages, changed=changed, effective_ratio=ratio_text(changed, rows)
        )


def make_plan(recipe: Recipe, index: Index, *, strict: bool = False) -> Plan:
    """Decide every edit; pure, one process. With `strict`, a ratio that cannot be met is an error."""
    rows = index.rows()
    decisions: list[Decision] = []
    olds: list[pa.Array] = []
    for stage, corruption in enumerate(recipe.chain):
        try:
            decision = corruption.decide(rows, recipe.stage_draws(stage))
        except ValueError as error:
            problem = split_message("recipe", str(error), f"chain.{stage}")
            raise CatalogError(replace(problem, do="mend the recipe or name another source")) from None
        _refuse_missing(decision, rows, stage)
        olds.append(decision.old_values(rows) if len(decision.rows) else pa.array([], _TEXT))
        decisions.append(decision)
        if stage + 1 < len(recipe.chain):
            rows = decision.apply(rows)
    stages = tuple(
        StageRecord(kind=corruption.kind, eligible=decision.eligible, selected=decision.selected, edits=len(decision.rows))
        for corruption, decision in zip(recipe.chain, decisions, strict=True)
    )
    shortfalls = tuple(problem for stage, decision in enumerate(decisions) for problem in _shortfalls(recipe, stage, decision, len(rows)))
    if strict and shortfalls:
        raise CatalogError(*shortfalls)
    return Plan(recipe, index.identity(), _edit_table(recipe, index, rows.keys, decisions, olds), stages, shortfalls, len(index.excluded))


def _refuse_missing(decision: Decision, rows: Rows, stage: int) -> None:
    """A corruption of a field that no row has is a mistake, not an empty variant."""
    column = rows.labels if decision.field == "label" else rows.captions
    if column is None and len(rows):
        do = f"name another source or state --{decision.field}-column"
        raise DatasetError(Problem("source", f"no row has a {decision.field}", f"{decision.field}s to corrupt", do, key=f"chain.{stage}"))


def _shortfalls(recipe: Recipe, stage: int, decision: Decision, total: int) -> list[Problem]:
    corruption = recipe.chain[stage]
    where, do = f"chain.{stage}", "lower the ratio or use --of eligible"
    wanted = corruption.model_copy(update={"of": "all"}).count_rows(total, total) if corruption.of == "all" else decision.selected
    problems = []
    if decision.selected < wanted:
        problems.append(Problem("recipe", f"only {decision.selected} rows are eligible", f"{wanted} to change", do, key=where))
    pairs = len(decision.rows) // 2
    if corruption.kind == "swap" and pairs < decision.selected // 2:
        found = f"only {pairs} pairs of different captions were found"
        problems.append(Problem("recipe", found, f"{decision.selected // 2}", do, key=where))
    return problems


def _edit_table(recipe: Recipe, index: Index, keys: pa.Array, decisions: Sequence[Decision], olds: Sequence[pa.Array]) -> pa.Table:
    rows = _join([decision.rows for decision in decisions])
    stages = np.repeat(np.arange(len(decisions), dtype=np.int32), [len(decision.rows) for decision in decisions])
    order = np.lexsort((stages, rows))
    rows, stages = rows[order], stages[order]
    shard_names = pa.array([shard.name for shard in index.meta.shards] or [""], _TEXT)
    shard_of = index.numbers("shard")[index.numbers("order")[rows]]
    donors = _join([decision.donors for decision in decisions])[order]
    donor_keys = pc.fill_null(keys.take(pa.array(donors, mask=donors < 0)), "")
    take = pa.array(order)
    columns = [
        keys.take(pa.array(rows)),
        shard_names.take(pa.array(shard_of)),
        pa.array(stages),
        pa.array([corruption.kind for corruption in recipe.chain], _TEXT).take(pa.array(stages)),
        pa.array([decision.field for decision in decisions], _TEXT).take(pa.array(stages)),
        pa.chunked_array(olds, _TEXT).take(take).combine_chunks(),
        pa.chunked_array([as_text(decision.new) for decision in decisions], _TEXT).take(take).combine_chunks(),
        donor_keys,
        pa.array(_join([decision.rank for decision in decisions])[order]),
    ]
    return pa.table(columns, schema=EDITS)


def _join(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def ratio_text(part: int, whole: int) -> str:
    """part / whole as decimal text with 9 places."""
    exact = Decimal(part) / Decimal(whole) if whole else Decimal(0)
    return format(exact.quantize(Decimal("0.000000001"), ROUND_HALF_UP), "f")
