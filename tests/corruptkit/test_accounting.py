"""Accounts: every number counted again by hand from the rows, of plans, of plan files alone and of variants of each format."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit import accounting
from corruptkit.account_lines import account_lines
from corruptkit.accounting import Account, describe_edits, describe_plan, describe_variant
from corruptkit.corruptions import Constant, Corruption, Drop, Flip, Swap
from corruptkit.corruptions.fields import Choice
from corruptkit.errors import DatasetError, IntegrityError
from corruptkit.formats.overlay import read_edits, write_edits
from corruptkit.index import Index, ShardStat, make_index
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan, ratio_text
from corruptkit.recipe import Recipe, parse_recipe
from corruptkit.write import write_variant
from tests.corruptkit import oracle
from tests.corruptkit.cases import CHAIN
from tests.corruptkit.shards import Row, make_rows, write_shards
from tests.corruptkit.strategies import examples, index_rows, oracle_rows, recipes, sources


def account_of(chain: list[Corruption], rows: list[Row], classes: int | None = None, seed: int = 0) -> Account:
    index = index_rows(rows, classes=classes)
    return describe_plan(make_plan(Recipe(seed=seed, chain=chain), index), index)


def count_captions(captions: list[str | None]) -> dict[str, int]:
    there = [caption for caption in captions if caption is not None]
    counts = Counter(there)
    return {
        "rows": len(there),
        "distinct": len(counts),
        "shared": sum(count for count in counts.values() if count > 1),
        "empty": there.count(""),
    }


@examples(150)
@given(st.data())
def test_account_is_what_the_rows_say(data: st.DataObject) -> None:
    rows, classes = data.draw(sources())
    recipe = data.draw(recipes(rows, classes))
    index = index_rows(rows, classes=classes)
    plan = make_plan(parse_recipe(recipe, "test"), index)
    account = describe_plan(plan, index)
    left = oracle.apply_edits(oracle_rows(rows), oracle.plan_edits(recipe, oracle_rows(rows), classes))
    assert (account.rows, account.changed, account.variant_id) == (len(rows), plan.counts().changed, plan.variant_id)
    before, after = (
        Counter(label for label in side if label is not None) for side in ([r.label for r in rows], [v[0] for v in left.values()])
    )
    assert (account.classes or ()) == tuple((label, before[label], after[label]) for label in sorted(before | after))
    if account.captions_before is not None and account.captions_after is not None:
        assert account.captions_before.model_dump() == count_captions([row.caption for row in rows])
        assert account.captions_after.model_dump() == count_captions([value[1] for value in left.values()])
    edits = plan.edits.to_pylist()
    for number, stage in enumerate(account.stages):
        mine = [edit for edit in edits if edit["stage"] == number]
        whole = len(rows) if stage.of == "all" else stage.eligible
        assert (stage.edits, stage.ratio) == (len(mine), recipe["chain"][number]["ratio"])
        assert (stage.selected_ratio, stage.effective_ratio) == (ratio_text(stage.selected, whole), ratio_text(len(mine), len(rows)))
        check_labels(stage, mine)
    assert Account.model_validate_json(account.model_dump_json()) == account
    assert account_lines(account)


def check_labels(stage: Any, edits: list[dict[str, Any]]) -> None:
    if stage.labels is None:
        return
    pairs = Counter((int(edit["old"]), int(edit["new"])) for edit in edits)
    assert stage.labels.confusion == tuple((*pair, pairs[pair]) for pair in sorted(pairs))
    olds = Counter(int(edit["old"]) for edit in edits)
    assert stage.labels.edited == tuple(sorted(olds.items()))
    assert sum(count for _, count in stage.labels.eligible) == stage.eligible
    assert (stage.labels.targets.outside, stage.labels.classes.outside) == (0, 0)


def test_plan_alone_tells_what_needs_no_source() -> None:
    index = index_rows(make_rows(200))
    plan = make_plan(parse_recipe(CHAIN | {"chain": CHAIN["chain"][:2]}, "test"), index)
    whole, alone = describe_plan(plan, index), describe_edits(plan.identity, plan.counts(), plan.edits)
    assert (alone.classes, alone.captions_before, alone.captions_after) == (None, None, None)
    labels, captions = alone.stages[0].labels, alone.stages[1].captions
    assert labels is not None
    assert captions is not None
    assert (labels.eligible, labels.targets, labels.classes, captions.before, captions.after) == (None,) * 5
    full = whole.stages[0].labels
    assert full is not None
    assert labels == full.model_copy(update={"eligible": None, "targets": None, "classes": None})


def test_nominal_selected_and_effective_ratio_differ_where_they_should() -> None:
    rows = make_rows(1000)
    chain = [
        Flip(ratio="0.5", of="eligible", where={"classes": [0, 1]}),
        Flip(ratio="0.9", where={"classes": [2]}),
        Flip(ratio="0.1", mode="redraw"),
    ]
    found = account_of(chain, rows, 10).stages
    ratios = [(stage.ratio, stage.selected_ratio, stage.effective_ratio) for stage in found]
    assert ratios[0] == ("0.5", "0.500000000", "0.100000000")
    assert ratios[1][:2] == ("0.9", ratio_text(found[1].eligible, 1000))  # capped
    assert ratios[2][1] == "0.100000000" > ratios[2][2]


def test_prior_and_eligible_are_those_of_the_stage_before() -> None:
    """Stage 0 makes class 3 of everything: stage 1 can then only go to what little is left."""
    rows = [Row(f"{i:06d}", 0 if i % 50 else 1, None) for i in range(2000)]
    weights = [["0", "0", "0", "1"]] * 4
    account = account_of([Flip(ratio="1", mode="matrix", matrix=weights, where={"classes": [0]}), Flip(ratio="0.5", mode="prior")], rows, 4)
    labels = account.stages[1].labels
    assert labels is not None
    assert labels.eligible == ((1, 40), (3, 1960))
    assert account.stages[0].labels is not None
    assert account.stages[0].labels.confusion == ((0, 3, 1960),)
    assert {new for old, new, _ in labels.confusion if old == 3} == {1}


def test_pair_leaves_nothing_to_compare_and_says_what_it_rules_out() -> None:
    index = index_rows(make_rows(500), classes=10)
    plan = make_plan(Recipe(seed=0, chain=[Flip(ratio="0.2", mode="pair")]), index)
    fit = describe_plan(plan, index).stages[0].labels.targets  # type: ignore[union-attr]
    assert (fit.degrees, fit.p_value, fit.outside) == (0, None, 0)  # type: ignore[union-attr]
    other = Plan(Recipe(seed=0, chain=[Flip(ratio="0.2")]), plan.source, plan.edits, plan.stages)
    odd = Plan(plan.recipe, *(vars(make_plan(other.recipe, index))[name] for name in ("source", "edits", "stages")))
    outside = describe_plan(odd, index).stages[0].labels.targets.outside  # type: ignore[union-attr]
    assert 70 < outside < 100  # one in nine is right by chance
    assert any(f"NOT as the mode declares: {outside} edits that it rules out" in line for line in account_lines(describe_plan(odd, index)))


def test_captions_are_measured_and_pairs_that_are_missing_counted() -> None:
    rows = [Row(f"{i}", None, "one two  three" if i else "été 猫") for i in range(10)]
    account = account_of([Swap(ratio="1")], rows)
    captions = account.stages[0].captions
    assert captions is not None
    assert (captions.pairs, captions.pairs_missing) == (1, 4)
    assert captions.old_words == captions.new_words == 2.5
    assert captions.old_characters == (14 + 5) / 2
    assert account.captions_before == account.captions_after
    dropped = account_of([Drop(ratio="0.5"), Constant(ratio="0.5", text="x y")], rows)
    first, second = (stage.captions for stage in dropped.stages)
    assert first is not None
    assert second is not None
    assert (first.new_words, first.new_characters, first.pairs) == (0, 0, None)
    assert first.before is not None
    assert first.after is not None
    assert (first.before.empty, first.after.empty, first.before.shared, first.after) == (0, 5, 9, second.before)
    assert (second.new_words, second.new_characters) == (2, 3)


def test_swap_of_equal_captions_has_no_pair_and_an_account() -> None:
    account = account_of([Swap(ratio="1")], [Row(f"{i}", None, "the same") for i in range(9)])
    captions = account.stages[0].captions
    assert captions is not None
    assert (captions.pairs, captions.pairs_missing, captions.old_words) == (0, 4, 0)
    assert any("0, 4 missing" in line for line in account_lines(account))


def test_kind_without_a_law_has_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Flip, "label_law")
    account = account_of([Flip(ratio="0.5"), Drop(ratio="0.5")], make_rows(100))
    labels = account.stages[0].labels
    assert Choice.label_law(account.stages[0], None) is None  # type: ignore[arg-type]
    assert labels is not None
    assert len(labels.confusion) > 20
    assert (labels.eligible, labels.targets, labels.classes) == (None, None, None)
    assert account_lines(account)


def test_classes_that_are_too_many_are_not_compared() -> None:
    account = account_of([Flip(ratio="1")], [Row("a", 2**31), Row("b", 3), Row("c", 3)])
    labels = account.stages[0].labels
    assert labels is not None
    assert labels.targets is None
    assert labels.classes is not None
    assert "targets" not in "\n".join(account_lines(account))


@pytest.mark.parametrize("rows", [[], make_rows(1), make_rows(30, classes=None, captions=None)[:0]], ids=str)
def test_nothing_to_do_is_an_account(rows: list[Row]) -> None:
    account = account_of([Flip(ratio="0.1"), Swap(ratio="0")], rows, 10)
    assert [stage.edits for stage in account.stages] == [0, 0]
    assert account_lines(account)


def test_tables_of_few_edits_of_each_class_are_joined() -> None:
    """One edit in a class tells nothing alone; two thousand of them do, of what is drawn and of what is not."""
    rows = make_rows(40_000, classes=1000, captions=None)
    index = index_rows(rows, classes=1000)
    plan = make_plan(Recipe(seed=0, chain=[Flip(ratio="0.05")]), index)
    fit = describe_plan(plan, index).stages[0].labels.targets  # type: ignore[union-attr]
    assert fit is not None
    assert fit.compared == 2000
    assert 150 < fit.degrees < 400
    assert 0.001 < (fit.p_value or 0) < 0.999
    low = np.where(plan.edits["new"].to_numpy().astype(int) < 500, plan.edits["new"], "7")
    keep = plan.edits["old"].to_numpy() != low
    edits = plan.edits.set_column(6, "new", pa.array(low, pa.large_string())).filter(pa.array(keep))
    broken = describe_plan(Plan(plan.recipe, plan.source, edits, plan.stages), index).stages[0].labels.targets  # type: ignore[union-attr]
    assert broken is not None
    assert broken.p_value == 0


def test_imagenet_in_size_is_changed_by_five_per_cent_exactly() -> None:
    """1000 classes of 1300 rows: 65,000 labels, where a count for each pair of classes, rounded down, changes none at all."""
    count = 1_300_000
    zeros = {name: np.zeros(count, np.int64) for name in ("position", "offset", "length")}
    keys = pa.array([f"{i:07d}" for i in range(count)], pa.large_string())
    table = pa.table({"key": keys, "label": np.repeat(np.arange(1000), 1300), "caption": pa.nulls(count, pa.large_string()), **zeros})
    stats = [ShardStat(name="memory", bytes=0, mtime_ns=0, rows=count, digest="")]
    index = make_index([table], stats, split="train", key_rule="sample", classes=1000, null_label=False, where="memory")
    account = describe_plan(make_plan(Recipe(seed=0, chain=[Flip(ratio="0.05")]), index), index)
    assert (account.changed, account.effective_ratio) == (65_000, "0.050000000")
    labels = account.stages[0].labels
    assert labels is not None
    assert sum(count for _, _, count in labels.confusion) == 65_000
    assert len(labels.edited) == 1000
    assert int(1300 * 0.05 / 999) == 0  # edits of each pair of classes, rounded down
    lines = account_lines(account)
    assert len(lines) < 32
    assert sum("other" in line for line in lines) == 2


# Of variants


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "source", make_rows(60, classes=4, captions=7), shards=3)


@pytest.mark.parametrize("form", ["webdataset", "parquet", "arrow", "overlay"])
def test_variant_tells_what_its_plan_told(source: Path, tmp_path: Path, form: Any) -> None:
    dataset = open_dataset(source, classes=4)
    plan = make_plan(
        parse_recipe(CHAIN | {"chain": [*CHAIN["chain"], {"kind": "drop", "mode": "label", "ratio": "0.1"}]}, "test"), dataset.index()
    )
    write_variant(dataset, plan, tmp_path / "v", form)
    expected = describe_plan(plan, dataset.index())
    assert describe_variant(tmp_path / "v") == describe_variant(tmp_path / "v", source) == expected
    source.rename(tmp_path / "moved")
    if form == "overlay":
        with pytest.raises(DatasetError, match="state --source PATH"):
            describe_variant(tmp_path / "v")
    else:
        assert describe_variant(tmp_path / "v") == expected
    assert describe_variant(tmp_path / "v", tmp_path / "moved") == expected


def make_pair(source: Path, tmp_path: Path) -> tuple[Plan, Index, Path]:
    dataset = open_dataset(source, classes=4)
    plan = make_plan(Recipe(seed=0, chain=[Flip(ratio="0.5"), Swap(ratio="0.5")]), dataset.index())
    write_variant(dataset, plan, tmp_path / "v", "overlay")
    return plan, dataset.index(), tmp_path / "v"


def test_plan_of_another_source_is_refused(source: Path, tmp_path: Path) -> None:
    plan, _, variant = make_pair(source, tmp_path)
    with pytest.raises(IntegrityError, match="fingerprint"):
        describe_plan(plan, index_rows(make_rows(60, classes=4, captions=8), classes=4))
    write_shards(tmp_path / "other", make_rows(60, classes=4, captions=8))
    with pytest.raises(IntegrityError, match="fingerprint"):
        describe_variant(variant, tmp_path / "other")


def test_variant_with_another_plan_is_refused(source: Path, tmp_path: Path) -> None:
    _, _, variant = make_pair(source, tmp_path)
    file = variant / ".corruptkit" / "plan.parquet"
    edits = read_edits(file)
    with file.open("wb") as out:
        write_edits(edits.slice(1), out)
    with pytest.raises(IntegrityError, match="its plan makes the variant"):
        describe_variant(variant)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("old", "3", "edits of values that the rows do not have"),
        ("key", "~", "edits of values that the rows do not have"),
        ("stage", 9, "edits up to stage 9"),
        ("field", "label", "one field a stage"),
    ],
)
def test_edits_that_fit_no_row_are_refused(source: Path, tmp_path: Path, column: str, value: Any, said: str) -> None:
    plan, index, _ = make_pair(source, tmp_path)
    last = plan.edits.num_rows - 1
    values = plan.edits[column].to_pylist()
    at = next(
        n
        for n in range(last, -1, -1)
        if plan.edits["field"][n].as_py() == ("caption" if column == "field" else "label") and values[n] != value
    )
    values[at] = value
    edits = plan.edits.set_column(plan.edits.column_names.index(column), column, pa.array(values, plan.edits.schema.field(column).type))
    with pytest.raises(IntegrityError, match=said):
        describe_plan(Plan(plan.recipe, plan.source, edits, plan.stages), index)
    assert accounting.describe_plan(plan, index).stages[0].edits == 30
