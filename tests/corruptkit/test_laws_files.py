"""The laws of SPEC.md section 7 about what files hold: 7 format, 8 difference, 9 chain, 10 inverse, 11 overlay."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.dataset import Dataset
from corruptkit.opening import open_dataset
from corruptkit.restore import restore
from corruptkit.verify import verify
from corruptkit.write import Format
from tests.corruptkit import oracle
from tests.corruptkit.cases import CHAIN, Case, draw_cases, full_case, make_variant
from tests.corruptkit.shards import Row, make_rows, read_members, read_tree, row_members, write_tar
from tests.corruptkit.strategies import examples, oracle_rows, recipes

Json = dict[str, Any]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return full_case(tmp_path)


def read_rows(dataset: Dataset) -> list[Json]:
    return list(dataset.rows())


def edited_members(members: list[tuple[str, str, bytes]]) -> list[tuple[str, str, object]]:
    """Members with their JSON read, so that only what it says is compared."""
    return [(shard, name, json.loads(content) if name.endswith(".json") else content) for shard, name, content in members]


# 7 Format


@examples(40)
@given(data=st.data())
def test_law_7_format(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = data.draw(draw_cases(tmp_path_factory))
    expected = oracle.identity(case.recipe, oracle_rows(case.rows), case.classes)
    left = [(row.key, row.label, row.caption) for row in case.edited()]
    forms: tuple[Format, ...] = ("webdataset", "overlay")
    for form in forms:
        variant = open_dataset(case.make(form, form))
        assert variant.manifest is not None
        assert (variant.manifest.variant_id, variant.manifest.identity) == (oracle.variant_id(expected), expected)
        assert [(row["key"], row.get("label"), row.get("caption")) for row in read_rows(variant)] == left
        table = variant.index().table.select(["key", "label", "caption"]).to_pylist()
        assert [(row["key"], None if row["label"] < 0 else row["label"], row["caption"]) for row in table] == left
        assert verify(case.folder / form, source=case.source, deep=form == "webdataset", embeddings=case.embeddings()).problems == ()
    plans = [read_tree(case.folder / form)[".corruptkit/plan.parquet"] for form in forms]
    assert plans[0] == plans[1]


RULES = {
    "sample": "{row.key}",
    "stem": "{row.key}",
    "shard/key": "shard-{shard:05d}/{row.key}",
    "ordinal": "row-{i:012d}",
    "regex:0*([0-9]+)": "{i}",
    "json:key": "{row.key}",
}


@pytest.mark.parametrize("rule", RULES)
def test_laws_7_to_11_under_every_key_rule(rule: str, case: Case) -> None:
    keyed = [row._replace(key=RULES[rule].format(i=i, row=row, shard=i // 20)) for i, row in enumerate(case.rows)]
    recipe = {"seed": "9", "chain": CHAIN["chain"][:2]}
    expected = oracle.identity(recipe, oracle_rows(keyed), 4, key_rule=rule)
    source, places = open_dataset(case.source, key=rule), [case.folder / "copied", case.folder / "overlay"]
    make_variant(recipe, source, places[0])
    make_variant(recipe, source, places[1], "overlay")
    rows = [read_rows(open_dataset(place)) for place in places]
    left = oracle.apply_edits(oracle_rows(keyed), oracle.plan_edits(recipe, oracle_rows(keyed), 4))
    assert rows[0] == rows[1]
    assert [(row["key"], (row["label"], row["caption"])) for row in rows[0]] == [(row.key, left[row.key]) for row in keyed]
    for place in places:
        variant = open_dataset(place)
        assert variant.manifest is not None
        assert variant.manifest.identity == expected
        assert variant.index().meta.key_rule == rule
        assert verify(place, source=case.source, embeddings=case.embeddings()).problems == ()
        assert read_tree(restore(place, case.folder / f"{place.name}-restored")) == read_tree(case.source)


# 8 Difference


@examples(60)
@given(data=st.data())
def test_law_8_difference(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Read with the standard library: member by member, a variant is its source with exactly the composed edits in it."""
    case = data.draw(draw_cases(tmp_path_factory))
    source, variant = read_members(case.source), read_members(case.make("variant"))
    expected = {f"{row.key}.{suffix}": content for row in case.edited() for suffix, content in row_members(row, case.members)}
    assert edited_members(variant) == edited_members([(shard, name, expected[name]) for shard, name, _ in source])
    changed = {key for key, _ in oracle.compose(oracle.plan_edits(case.recipe, oracle_rows(case.rows), case.classes))}
    for (_, name, before), (_, _, after) in zip(source, variant, strict=True):
        key, suffix = name.rsplit(".", maxsplit=1)
        assert before == after or (suffix in ("txt", "cls", "json") and key in changed)


def test_law_8_difference_leaves_headers_and_what_nobody_edits_alone(case: Case) -> None:
    before, after = (sorted(path.glob("*.tar")) for path in (case.source, case.make("variant")))
    for mine, theirs in zip(before, after, strict=True):
        with tarfile.open(mine) as one, tarfile.open(theirs) as other:
            for a, b in zip(one.getmembers(), other.getmembers(), strict=True):
                assert (a.name, a.mtime, a.mode, a.uid, a.uname, a.type) == (b.name, b.mtime, b.mode, b.uid, b.uname, b.type)
    assert (case.folder / "variant" / "LICENSE.txt").read_bytes() == b"CC0\r\n"


# 9 Chain


@examples(40)
@given(data=st.data())
def test_law_9_chain(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A variant, overlay or not, is a source with the variant's conditions and its own source's K and key rule."""
    case = data.draw(draw_cases(tmp_path_factory))
    edited = case.edited()
    second = data.draw(recipes(edited, case.classes))
    null_label = any((stage["kind"], stage["mode"]) == ("drop", "label") for stage in case.recipe["chain"])
    expected = oracle.identity(second, oracle_rows(edited), case.classes, null_label=null_label)
    for form in ("webdataset", "overlay"):
        variant = open_dataset(case.make(form, form))
        plan, manifest = make_variant(second, variant, case.folder / f"{form}-2")
        assert (plan.identity, manifest.identity) == (expected, expected)
        assert variant.manifest is not None
        assert manifest.source.variant_id == variant.manifest.variant_id
        assert verify(case.folder / f"{form}-2", source=case.folder / form, deep=True, embeddings=case.embeddings()).problems == ()
    trees = [read_tree(case.folder / f"{form}-2") for form in ("webdataset", "overlay")]
    names = [name for name in trees[0] if "manifest" not in name]
    assert len(trees[0]) == len(trees[1])
    assert {name: trees[0][name] for name in names} == {name: trees[1][name] for name in names}


@examples(10)
@given(data=st.data())
def test_law_9_chain_of_overlays_over_overlays(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Three overlays over each other read as three variants after each other, and any of them can be materialised."""
    case = data.draw(draw_cases(tmp_path_factory))
    recipe, copied, layered = case.recipe, case.source, case.source
    for number in range(3):
        names = [case.folder / f"{kind}-{number}" for kind in ("copied", "layered", "materialised")]
        make_variant(recipe, open_dataset(copied, classes=case.classes), names[0])
        make_variant(recipe, open_dataset(layered, classes=case.classes), names[1], "overlay")
        make_variant(recipe, open_dataset(layered, classes=case.classes), names[2])
        copied, layered = names[0], names[1]
        datasets = [open_dataset(name) for name in names]
        assert read_rows(datasets[0]) == read_rows(datasets[1]) == read_rows(datasets[2])
        assert len({dataset.manifest.variant_id for dataset in datasets if dataset.manifest}) == 1
        assert read_members(names[2]) == read_members(names[0])
        recipe = data.draw(recipes(case.rows, case.classes, most=1))
    assert verify(layered, embeddings=case.embeddings()).problems == ()


# 10 Inverse


@examples(40)
@given(data=st.data())
def test_law_10_inverse(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = data.draw(draw_cases(tmp_path_factory))
    for form in ("webdataset", "overlay"):
        restored = restore(case.make(form, form), case.folder / f"{form}-restored")
        assert read_tree(restored) == read_tree(case.source)


def test_law_10_inverse_of_a_variant_alone_with_side_cars(case: Case) -> None:
    expected, variant = read_tree(case.source), case.make("variant")
    assert {name for name in expected if expected[name] != read_tree(variant)[name]} >= {"shard-00000.tar", "shard-00000.parquet"}
    shutil.rmtree(case.source)
    assert read_tree(restore(variant, case.folder / "restored")) == expected


def test_law_10_inverse_of_a_variant_of_an_overlay(case: Case) -> None:
    """Its source is the overlay as it reads, so that is what comes back, here the materialised variant to the byte."""
    overlay, copied = case.make("overlay", "overlay"), case.make("copied")
    again = CHAIN | {"seed": "4"}
    make_variant(again, open_dataset(overlay), case.folder / "over")
    make_variant(again, open_dataset(overlay), case.folder / "over-overlay", "overlay")
    expected = {name: content for name, content in read_tree(copied).items() if not name.startswith(".corruptkit/")}
    for name in ("over", "over-overlay"):
        restored = read_tree(restore(case.folder / name, case.folder / f"{name}-restored"))
        shards = {name for name in expected if not name.endswith(".parquet")}
        assert {name: restored[name] for name in shards} == {name: expected[name] for name in shards}


_blanks = st.text(" \t\n\v\f\r", max_size=3)
_labels = st.tuples(st.sampled_from(["", "\ufeff"]), _blanks, st.sampled_from(["", "0", "00000"]), _blanks)
_objects = st.sampled_from(
    [
        '{"caption": CAPTION, "label": LABEL}',
        '\ufeff \r\n{"label" :LABEL\t,"x":{"caption":"no"} , "caption"\n:CAPTION}  \n',
        '{"caption": null, "\\u0063aption": CAPTION, "label": "ZEROSLABEL", "é": 1e400}',
        '{"caption":CAPTION,"n":[0.10,1E2,{"label":1}],"label":LABEL}',
    ]
)


def odd_members(
    rows: list[Row], first: list[Row], suffixes: Sequence[str], labels: list[tuple[str, ...]], objects: list[str]
) -> list[tuple[str, bytes]]:
    """Members of `rows`, spelt as drawn: a label that is not the first one of its row has lost its zeros, JSON in ASCII stays ASCII."""
    found = []
    for row, old, (mark, before, zeros, after), text in zip(rows, first, labels, objects, strict=True):
        kept, caption = zeros if row.label == old.label else "", row.caption or ""
        quoted = json.dumps(caption, ensure_ascii=text.lstrip("\ufeff").isascii())
        spelt = text.replace("ZEROS", kept).replace("LABEL", str(row.label)).replace("CAPTION", quoted)
        contents = {"cls": f"{mark}{before}{kept}{row.label}{after}", "txt": caption, "json": spelt, "png": row.key * 300}
        found += [(f"{row.key}.{suffix}", contents[suffix].encode()) for suffix in suffixes]
    return found


@examples(60)
@given(data=st.data())
def test_laws_8_and_10_of_odd_bytes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Labels among white space, marks and zeros, and JSON in any spelling: the value alone changes, and comes back."""
    rows, folder = make_rows(12, classes=3), tmp_path_factory.mktemp("odd")
    rows = [
        row._replace(caption=['\u00e9 "1"', "a\\b\n", "\u65e5\u672c", "\U0001f600\u2028", "plain"][i % 5]) for i, row in enumerate(rows)
    ]
    suffixes = data.draw(st.sampled_from([("cls", "txt", "json", "png"), ("png", "json"), ("json", "cls", "png")]))
    spelt = (suffixes, *(data.draw(st.lists(kind, min_size=12, max_size=12)) for kind in (_labels, _objects)))
    case = Case(rows, 3, data.draw(recipes(rows, 3)), (), folder)
    case.source.mkdir()
    form = data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    tar = write_tar(case.source / "odd.tar", odd_members(rows, rows, *spelt), form=form)
    tar.write_bytes(tar.read_bytes() + bytes(512 * data.draw(st.integers(0, 3))) + data.draw(st.sampled_from([b"", b"after the end"])))
    variant = case.make("variant")
    assert [(name, content) for _, name, content in read_members(variant)] == odd_members(case.edited(), rows, *spelt)
    assert verify(variant, source=case.source, deep=True, embeddings=case.embeddings()).problems == ()
    assert read_tree(restore(variant, folder / "restored")) == read_tree(case.source)
    assert read_rows(open_dataset(case.make("overlay", "overlay"))) == read_rows(open_dataset(variant))


# 11 Overlay


@examples(40)
@given(data=st.data())
def test_law_11_overlay(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By every way to read: rows, batches in an order, webdataset's samples, torch's items."""
    case = data.draw(draw_cases(tmp_path_factory))
    overlay, copied = open_dataset(case.make("overlay", "overlay")), open_dataset(case.make("copied"))
    assert read_rows(overlay) == read_rows(copied)
    order = data.draw(st.lists(st.integers(0, len(case.rows) - 1), max_size=30))
    for given_order in (None, order):
        batches = [list(dataset.batches(given_order, size=7)) for dataset in (overlay, copied)]
        assert batches[0] == batches[1]
        assert sum(map(len, batches[0])) == len(case.rows if given_order is None else order)
    samples = [[{**sample, "__url__": ""} for sample in dataset.to_webdataset()] for dataset in (overlay, copied)]
    assert samples[0] == samples[1]
    items = [[dataset.to_torch()[number] for number in range(len(dataset))] for dataset in (overlay, copied)]
    assert items[0] == items[1] == read_rows(copied)
    assert overlay.to_torch().__getitems__(order) == copied.to_torch().__getitems__(order)


def test_law_11_overlay_rewrites_the_json_beside_the_caption(case: Case) -> None:
    overlay, copied = open_dataset(case.make("overlay", "overlay")), open_dataset(case.make("copied"))
    changed = 0
    for before, one, other in zip(read_rows(open_dataset(case.source)), read_rows(overlay), read_rows(copied), strict=True):
        assert one == other
        fields = json.loads(one["json"])
        assert (fields["caption"], fields["label"]) == (one["caption"], one["label"])
        assert (one["image"], fields["width"]) == (before["image"], 64)
        changed += before["json"] != one["json"]
    assert changed == len({key for key, _ in oracle.compose(oracle.plan_edits(CHAIN, oracle_rows(case.rows), 4))})
