"""The account of a variant: what each stage was asked for and did, beside what its mode declares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from corruptkit.chisquare import LEAST, Cells, pool_cells, upper_tail
from corruptkit.corruptions.fields import WORD
from corruptkit.corruptions.rows import Decision, Ints, LabelLaw, Rows
from corruptkit.digest import variant_id
from corruptkit.edits import compose_edits, edit_index, reverse_edits
from corruptkit.errors import IntegrityError, Problem
from corruptkit.files import local_path
from corruptkit.formats.overlay import read_edits
from corruptkit.index import Index
from corruptkit.manifest import FOLDER, CountRecord, Identity, Manifest, StageRecord, read_manifest
from corruptkit.opening import open_source, open_variant, stored_recipe
from corruptkit.plan import Plan, ratio_text

_MOST_CELLS = 1 << 29  # of a table of old and new classes: 21,841 classes are compared in seconds, a million would take hours
_PAIRED = ("swap",)  # kinds whose edits come in pairs


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fit(_Part):
    """Edits beside a law. Without a choice to compare there are no degrees of freedom and no p-value."""

    statistic: float
    degrees: int
    p_value: float | None
    compared: int  # edits in the pools that were compared
    outside: int  # edits that the law rules out


class LabelAccount(_Part):
    """The labels of a stage. The fits need the source; a table of more cells than can be compared has none."""

    confusion: tuple[tuple[int, int, int], ...]  # old class, new class, edits; ascending
    edited: tuple[tuple[int, int], ...]  # old class, edits; ascending
    eligible: tuple[tuple[int, int], ...] | None = None  # class, rows that could be hit; ascending
    targets: Fit | None = None  # new classes, given the old ones, beside the law of the mode
    classes: Fit | None = None  # old classes beside the eligible rows, drawn without replacement


class CaptionCounts(_Part):
    """Captions by their exact text."""

    rows: int  # that have a caption, an empty one included
    distinct: int
    shared: int  # rows whose caption another row has as well
    empty: int


class CaptionAccount(_Part):
    """The captions of a stage; lengths are means over its edits."""

    old_characters: float
    new_characters: float
    old_words: float
    new_words: float
    pairs: int | None = None
    pairs_missing: int | None = None
    before: CaptionCounts | None = None  # of all rows: needs the source
    after: CaptionCounts | None = None


class StageAccount(_Part):
    """A stage: the ratio that was asked for, the one selected of what it is a share `of`, and the one edited of all rows."""

    kind: str
    mode: str
    ratio: str
    of: str
    eligible: int
    selected: int
    edits: int
    selected_ratio: str
    effective_ratio: str
    labels: LabelAccount | None = None
    captions: CaptionAccount | None = None


class Account(_Part):
    """What a plan did, stage by stage and over the chain."""

    variant_id: str
    rows: int
    excluded: int
    changed: int
    effective_ratio: str
    stages: tuple[StageAccount, ...]
    classes: tuple[tuple[int, int, int], ...] | None = None  # class, rows before, rows after; ascending; needs the source
    captions_before: CaptionCounts | None = None
    captions_after: CaptionCounts | None = None


def describe_edits(identity: Identity, counts: CountRecord, edits: pa.Table) -> Account:
    """What a plan tells without its source: no counts of all rows, and nothing that is compared with a law."""
    chain = identity["recipe"]["chain"]
    numbers = edits["stage"].to_numpy()
    if len(chain) != len(counts.stages) or numbers.max(initial=-1) >= len(chain):
        found = f"counts of {len(counts.stages)} stages, edits up to stage {numbers.max(initial=-1)}"
        raise IntegrityError(Problem("plan", found, f"a chain of {len(chain)}", "do not use it"))
    parts = [edits.filter(pa.array(numbers == number)) for number in range(len(chain))]
    stages = tuple(_describe_stage(*found, counts.rows) for found in zip(chain, counts.stages, parts, strict=True))
    return Account(
        variant_id=variant_id(identity),
        rows=counts.rows,
        excluded=counts.excluded,
        changed=counts.changed,
        effective_ratio=counts.effective_ratio,
        stages=stages,
    )


def _describe_stage(given: dict[str, Any], record: StageRecord, edits: pa.Table, rows: int) -> StageAccount:
    of = str(given.get("of", "all"))
    field, *others = pc.unique(edits["field"]).to_pylist() or [""]
    if others:
        raise IntegrityError(Problem("plan", f"a {record.kind} of labels and captions", "one field a stage", "do not use it"))
    return StageAccount(
        kind=record.kind,
        mode=str(given.get("mode", "")),
        ratio=str(given.get("ratio", "")),
        of=of,
        eligible=record.eligible,
        selected=record.selected,
        edits=record.edits,
        selected_ratio=ratio_text(record.selected, rows if of == "all" else record.eligible),
        effective_ratio=ratio_text(record.edits, rows),
        labels=_count_labels(edits) if field == "label" else None,
        captions=_measure_captions(record, edits) if field == "caption" or record.kind in _PAIRED else None,
    )


def _count_labels(edits: pa.Table) -> LabelAccount:
    pairs = np.stack([edits[name].cast(pa.int64()).to_numpy() for name in ("old", "new")], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    confusion = tuple((old, new, count) for (old, new), count in zip(found.tolist(), counts.tolist(), strict=True))
    return LabelAccount(confusion=confusion, edited=_count_classes(pairs[:, 0]))


def _count_classes(labels: Ints) -> tuple[tuple[int, int], ...]:
    found, counts = np.unique(labels, return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))


def _measure_captions(record: StageRecord, edits: pa.Table) -> CaptionAccount:
    paired = record.kind in _PAIRED
    return CaptionAccount(
        old_characters=_mean(pc.utf8_length(edits["old"])),
        new_characters=_mean(pc.utf8_length(edits["new"])),
        old_words=_mean(pc.count_substring_regex(edits["old"], WORD)),
        new_words=_mean(pc.count_substring_regex(edits["new"], WORD)),
        pairs=record.edits // 2 if paired else None,
        pairs_missing=record.selected // 2 - record.edits // 2 if paired else None,
    )


def _mean(numbers: pa.ChunkedArray) -> float:
    return float(pc.mean(numbers).as_py() or 0)


def describe_plan(plan: Plan, index: Index) -> Account:
    """The whole account of a plan, from the index it was made of. Raises IntegrityError where it was made of another."""
    found, expected = index.meta.fingerprint, plan.source["fingerprint"]
    if found != expected:
        raise IntegrityError(Problem("source", f"fingerprint {found[:16]}...", f"{expected[:16]}...", "name the source of the plan"))
    account = describe_edits(plan.identity, plan.counts(), plan.edits)
    first = last = index.rows()
    captions = [_count_captions(first)] if any(stage.captions for stage in account.stages) else []
    stages = []
    for stage, corruption, (before, decision, last) in zip(account.stages, plan.recipe.chain, _replay_stages(plan, first), strict=True):
        update: dict[str, Any] = {}
        law = corruption.label_law(before)
        if stage.labels is not None and law is not None:
            update["labels"] = stage.labels.model_copy(update=_compare_labels(law, before, decision))
        if stage.captions is not None:
            captions.append(_count_captions(last) if stage.edits else captions[-1])
            update["captions"] = stage.captions.model_copy(update={"before": captions[-2], "after": captions[-1]})
        stages.append(stage.model_copy(update=update))
    whole: dict[str, Any] = {"stages": tuple(stages), "classes": _compare_classes(first, last)}
    if captions:
        whole |= {"captions_before": captions[0], "captions_after": captions[-1]}
    return account.model_copy(update=whole)


def _replay_stages(plan: Plan, rows: Rows) -> Iterator[tuple[Rows, Decision, Rows]]:
    """Each stage of a plan again: the rows it found, checked against its old values, its edits, and the rows it left."""
    stages = plan.edits["stage"].to_numpy()
    places = pc.fill_null(pc.index_in(plan.edits["key"], value_set=rows.keys), -1).to_numpy().astype(np.int64)
    for number, record in enumerate(plan.stages):
        mine = np.flatnonzero(stages == number)
        edits, at = plan.edits.take(pa.array(mine)).combine_chunks(), places[mine]
        is_label = len(at) > 0 and edits["field"][0].as_py() == "label"
        new = edits["new"].cast(pa.int64()).to_numpy() if is_label else edits["new"].combine_chunks()
        nobody = np.full(len(at), -1)
        rank = edits["rank"].to_numpy()
        decision = Decision("label" if is_label else "caption", at, rank, new, nobody, rank + 1, record.eligible, record.selected)
        if len(at) and (at.min() < 0 or not _has_olds(rows, decision, edits)):
            found, expected = "edits of values that the rows do not have", "those of the source"
            raise IntegrityError(Problem("plan", found, expected, "do not use it", key=f"chain.{number}"))
        after = decision.apply(rows)
        yield rows, decision, after
        rows = after


def _has_olds(rows: Rows, decision: Decision, edits: pa.Table) -> bool:
    column = rows.labels if decision.field == "label" else rows.captions
    return column is not None and bool(decision.old_values(rows).equals(edits["old"].combine_chunks()))


def _count_captions(rows: Rows) -> CaptionCounts:
    if rows.captions is None:
        return CaptionCounts(rows=0, distinct=0, shared=0, empty=0)
    captions = rows.captions.drop_null()
    counts = pc.value_counts(captions).field("counts").to_numpy()
    empty = int(pc.sum(pc.equal(captions, ""), min_count=0).as_py())
    return CaptionCounts(rows=len(captions), distinct=len(counts), shared=int(counts[counts > 1].sum()), empty=empty)


def _compare_classes(before: Rows, after: Rows) -> tuple[tuple[int, int, int], ...] | None:
    """The rows of each class that has any, the null label included."""
    if before.labels is None or after.labels is None:
        return None
    old, new = (dict(_count_classes(rows.labels[rows.labels >= 0])) for rows in (before, after))  # type: ignore[index, operator]
    return tuple((label, old.get(label, 0), new.get(label, 0)) for label in sorted(old.keys() | new.keys()))


def _compare_labels(law: LabelLaw, rows: Rows, decision: Decision) -> dict[str, Any]:
    assert rows.labels is not None, "its edits have old values"
    eligible = rows.labels[law.eligible]
    able = law.eligible[decision.rows]
    old, new = rows.labels[decision.rows[able]], np.asarray(decision.new)[able]
    outside = int((~able).sum())
    return {
        "eligible": _count_classes(eligible),
        "targets": compare_targets(law, old, new, outside),
        "classes": compare_hits(eligible, old, outside),
    }


def compare_targets(law: LabelLaw, old: Ints, new: Ints, outside: int = 0) -> Fit | None:
    """New classes beside a law, given the old ones; None where the table is too large.

    An old class of ten edits or more is a table of its own: its new classes, ascending, in pools of an expectation of 5 or more. The
    rest, n edits, are one table: of each old class's new ones, ascending, by the n / 5 equal parts of its law in which they begin.
    """
    classes, counts = np.unique(old, return_counts=True)
    if len(classes) * law.width > _MOST_CELLS:
        return None
    parts = np.split(new[np.argsort(old, kind="stable")], np.cumsum(counts)[:-1])
    shares = int(counts[counts < 2 * LEAST].sum()) // LEAST
    few = np.zeros((2, max(shares, 1)))
    tables = []
    for label, part in zip(classes.tolist(), parts, strict=True):
        reachable, weights = law.weights(label)
        places = np.searchsorted(reachable, part)
        allowed = np.append(reachable, -1)[places] == part
        outside += int((~allowed).sum())
        observed = np.bincount(places[allowed], minlength=len(reachable))
        chances = weights / max(weights.sum(), 1)
        if len(part) >= 2 * LEAST:
            tables.append(pool_cells(observed, observed.sum() * chances))
        elif shares > 1 and len(reachable) > 1:
            share = np.minimum((np.cumsum(chances) - chances) * shares, shares - 1).astype(np.int64)
            few += [np.bincount(share, values, minlength=shares) for values in (observed, observed.sum() * chances)]
    return _judge_tables([*tables, pool_cells(*few)], outside)


def compare_hits(eligible: Ints, hit: Ints, outside: int = 0) -> Fit:
    """The classes of the rows that were hit beside those of all that could be, in pools of an expectation of 5 hits and 5 misses or more.

    Rows are drawn without replacement: the statistic is scaled by (E - 1) / (E - m) for m of E rows, which gives it the mean of
    chi-square with one degree of freedom less than pools.
    """
    classes, counts = np.unique(eligible, return_counts=True)
    total, drawn = len(eligible), len(hit)
    observed = np.bincount(np.searchsorted(classes, hit), minlength=len(classes))
    expected = counts * (drawn / max(total, 1))
    pools = pool_cells(observed, expected, counts * (min(drawn, total - drawn) / max(total, 1)))
    return _judge_tables([pools], outside, (total - 1) / (total - drawn) if drawn < total else 1)


def _judge_tables(tables: list[Cells], outside: int, scale: float = 1) -> Fit:
    """One chi-square of tables that are independent of each other; a table of one pool says nothing."""
    telling = [table for table in tables if len(table.expected) > 1]
    statistic = scale * sum(table.statistic for table in telling)
    degrees = sum(len(table.expected) - 1 for table in telling)
    return Fit(
        statistic=statistic,
        degrees=degrees,
        p_value=upper_tail(statistic, degrees) if degrees else None,
        compared=sum(int(table.observed.sum()) for table in telling),
        outside=outside,
    )


def describe_variant(path: str | Path, source: str | Path | None = None) -> Account:
    """The whole account of a variant, from its shards with the edits undone, or from its source. Raises IntegrityError."""
    place = local_path(path)
    manifest = read_manifest(place)
    edits = read_edits(place / FOLDER / "plan.parquet")
    counts = manifest.counts
    plan = Plan(stored_recipe(place, manifest), manifest.identity["source"], edits, counts.stages, excluded=counts.excluded)
    if plan.variant_id != manifest.variant_id:
        found = f"its plan makes the variant {plan.variant_id}"
        raise IntegrityError(Problem(str(place), found, manifest.variant_id, "do not use it"))
    return describe_plan(plan, _source_index(place, manifest, plan, source))


def _source_index(place: Path, manifest: Manifest, plan: Plan, source: str | Path | None) -> Index:
    if source is not None or not manifest.shards:
        return open_source(place, manifest, source).index()
    declared = manifest.identity["source"].get("null_label", False)
    return edit_index(open_variant(place).index(), reverse_edits(compose_edits(plan.edits)), null_label=declared)
