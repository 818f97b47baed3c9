"""The plan: every decision of a recipe over a source, as a table of edits. SPEC.md sections 3 to 5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.corruptions import Decision, Rewrite, Rows
from corruptkit.corruptions.rewrites import WANTED
from corruptkit.corruptions.rows import FieldName, Ints, as_text
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


@dataclass(frozen=True)
class _Ladder:
    """All edits of the largest of some recipes that differ in their last ratio alone."""

    edits: pa.Table
    since: Ints  # the least n of the last stage with which an edit is there
    stages: tuple[StageRecord, ...]


def make_plan(recipe: Recipe, index: Index, *, strict: bool = False) -> Plan:
    """Decide every edit; pure, one process. With `strict`, a ratio that cannot be met is an error."""
    return next(make_plans([recipe], index, strict=strict))


def make_plans(recipes: Iterable[Recipe], index: Index, *, strict: bool = False) -> Iterator[Plan]:
    """The plan of each recipe, in their order, the same as `make_plan` makes of it alone.

    Recipes that differ in the ratio of their last stage alone are decided once, at the largest ratio: the others are parts of it. Its
    edits are held until the last of them has its plan, so that recipes that stand seed by seed take the least memory.
    """
    asked = [(recipe, _without_ratio(recipe)) for recipe in recipes]
    left, rows = Counter(ladder for _, ladder in asked), index.rows()
    largest: dict[Recipe, Recipe] = {}
    for recipe, ladder in asked:
        largest[ladder] = max(largest.get(ladder, recipe), recipe, key=lambda some: Fraction(some.chain[-1].ratio))
    held: dict[Recipe, _Ladder] = {}
    for recipe, ladder in asked:
        if ladder not in held:
            held[ladder] = _decide_chain(largest[ladder], index, rows)
        left[ladder] -= 1
        # No name for what is popped: it would be held while the caller is busy with the plan.
        yield _cut_plan(recipe, index, held[ladder] if left[ladder] else held.pop(ladder), strict=strict)


def _without_ratio(recipe: Recipe) -> Recipe:
    """What recipes that differ in their last ratio alone have in common."""
    *before, last = recipe.chain
    return recipe.model_copy(update={"chain": (*before, last.model_copy(update={"ratio": "1"}))})


def _decide_chain(recipe: Recipe, index: Index, rows: Rows) -> _Ladder:
    """Every edit of every stage."""
    keys = rows.keys
    decisions: list[Decision] = []
    olds: list[pa.Array] = []
    for stage in range(len(recipe.chain)):
        decision = _decide_stage(recipe, stage, rows)
        olds.append(decision.old_values(rows) if len(decision.rows) else pa.array([], _TEXT))
        decisions.append(decision)
        if stage + 1 < len(recipe.chain):
            rows = decision.apply(rows)
    stages = tuple(
        StageRecord(kind=corruption.kind, eligible=decision.eligible, selected=decision.selected, edits=len(decision.rows))
        for corruption, decision in zip(recipe.chain, decisions, strict=True)
    )
    order = _key_order(decisions)
    since = _join([*(np.zeros(len(decision.rows), np.int64) for decision in decisions[:-1]), decisions[-1].since])[order]
    return _Ladder(_edit_table(recipe, index, keys, decisions, olds, order), since, stages)


def _cut_plan(recipe: Recipe, index: Index, ladder: _Ladder, *, strict: bool) -> Plan:
    """The plan of one of a ladder's recipes: every edit of the stages before the last, and those of the last that its ratio reaches."""
    last = ladder.stages[-1]
    selected = recipe.chain[-1].count_rows(len(index), last.eligible)
    there = ladder.since <= selected
    edits = last.edits - int(np.count_nonzero(~there))
    stages = (*ladder.stages[:-1], last.model_copy(update={"selected": selected, "edits": edits}))
    shortfalls = tuple(problem for number, stage in enumerate(stages) for problem in _shortfalls(recipe, number, stage, len(index)))
    if strict and shortfalls:
        raise CatalogError(*shortfalls)
    table = ladder.edits if edits == last.edits else ladder.edits.filter(pa.array(there))
    return Plan(recipe, index.identity(), table, stages, shortfalls, len(index.excluded))


def list_rewrites(recipe: Recipe, index: Index) -> pa.Table:
    """The texts that the first rewrite stage with a table that lacks some is waiting for: key, level, caption.

    They stand in the order of their ranking, captions as the stages before left them. Without a row, `make_plan` has all it needs.
    """
    rows = index.rows()
    for stage, corruption in enumerate(recipe.chain):
        if isinstance(corruption, Rewrite):
            _refuse_missing("caption", rows, stage)
            missing = corruption.list_missing(rows, recipe.stage_draws(stage))
            if len(missing):
                return missing
        rows = _decide_stage(recipe, stage, rows).apply(rows)
    return WANTED.empty_table()


def _decide_stage(recipe: Recipe, stage: int, rows: Rows) -> Decision:
    try:
        decision = recipe.chain[stage].decide(rows, recipe.stage_draws(stage))
    except ValueError as error:
        problem = split_message("recipe", str(error), f"chain.{stage}")
        raise CatalogError(replace(problem, do=problem.do or "mend the recipe or name another source")) from None
    _refuse_missing(decision.field, rows, stage)
    return decision


def _refuse_missing(field: FieldName, rows: Rows, stage: int) -> None:
    """A corruption of a field that no row has is a mistake, not an empty variant."""
    column = rows.labels if field == "label" else rows.captions
    if column is None and len(rows):
        do = f"name another source or state --{field}-column"
        raise DatasetError(Problem("source", f"no row has a {field}", f"{field}s to corrupt", do, key=f"chain.{stage}"))


def _shortfalls(recipe: Recipe, number: int, stage: StageRecord, total: int) -> list[Problem]:
    corruption = recipe.chain[number]
    where, do = f"chain.{number}", "lower the ratio or use --of eligible"
    wanted = corruption.model_copy(update={"of": "all"}).count_rows(total, total) if corruption.of == "all" else stage.selected
    problems = []
    if stage.selected < wanted:
        problems.append(Problem("recipe", f"only {stage.selected} rows are eligible", f"{wanted} to change", do, key=where))
    pairs = stage.edits // 2
    if corruption.kind == "swap" and pairs < stage.selected // 2:
        found = f"only {pairs} pairs of different captions were found"
        problems.append(Problem("recipe", found, f"{stage.selected // 2}", do, key=where))
    return problems


def _key_order(decisions: Sequence[Decision]) -> Ints:
    """The edits of all stages, one stage after another, in ascending (key bytes, stage)."""
    # A row has one edit a stage at most, and the stages stand in order: a stable sort keeps them so.
    return np.argsort(_join([decision.rows for decision in decisions]), kind="stable")


def _edit_table(
    recipe: Recipe, index: Index, keys: pa.Array, decisions: Sequence[Decision], olds: Sequence[pa.Array], order: Ints
) -> pa.Table:
    rows = _join([decision.rows for decision in decisions])[order]
    stages = np.repeat(np.arange(len(decisions), dtype=np.int32), [len(decision.rows) for decision in decisions])[order]
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
