"""Reading: rows, batches and samples of sources, variants and overlays, for webdataset and torch as they really are."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from corruptkit.corruptions import Drop, Flip, Swap
from corruptkit.dataset import Dataset, worker_share
from corruptkit.errors import CorruptkitError, DatasetError, IntegrityError
from corruptkit.manifest import checksum_line
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import Recipe
from corruptkit.write import write_variant
from tests.corruptkit.shards import Row, image_bytes, make_rows, write_shards, write_tar

ROWS = make_rows(24, classes=5, captions=11)
RECIPE = Recipe(seed=4, chain=[Flip(ratio="0.5", mode="prior"), Swap(ratio="0.6")])
IN_PROCESS = ["__url__", "__local_path__"]


class Made(NamedTuple):
    """A source of 24 rows in 5 shards and one plan of it, written in both formats."""

    source: Path
    written: Path
    overlay: Path
    plan: Plan

    def open(self, name: str) -> Dataset:
        return open_dataset(getattr(self, name))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    source = open_dataset(write_shards(folder / "source", ROWS, shards=5))
    plan = make_plan(RECIPE, source.index())
    write_variant(source, plan, folder / "written")
    write_variant(source, plan, folder / "overlay", "overlay")
    return Made(folder / "source", folder / "written", folder / "overlay", plan)


def edit_rows(rows: Iterable[Row], plan: Plan) -> list[Row]:
    """The rows as a plan leaves them, told from its table of edits alone."""
    left = {row.key: row for row in rows}
    for edit in sorted(plan.edits.to_pylist(), key=lambda edit: edit["stage"]):
        row, field, new = left[edit["key"]], edit["field"], edit["new"]
        old = str(getattr(row, field))
        assert old == edit["old"]
        left[row.key] = row._replace(**{field: int(new) if field == "label" else new})
    return list(left.values())


def read_row(row: Row, json_content: bytes) -> dict[str, Any]:
    """A row as it should read; the .json is what it is in the shard."""
    return {"key": row.key, "image": image_bytes(row), "label": row.label, "caption": row.caption, "json": json_content}


def check_rows(found: Iterable[dict[str, Any]], expected: Iterable[Row]) -> None:
    for got, row in zip(found, expected, strict=True):
        assert got == read_row(row, got["json"])
        told = json.loads(got["json"])
        assert (told["key"], told["label"], told["caption"]) == (row.key, row.label, row.caption)


def make_overlay(source: Path, out: Path, ratio: str = "0.5", seed: int = 0) -> Path:
    opened = open_dataset(source)
    write_variant(opened, make_plan(Recipe(seed=seed, chain=[Flip(ratio=ratio)]), opened.index()), out, "overlay")
    return out


def change_manifest(variant: Path, **source: object) -> None:
    """Say something else about the source; neither id nor digests cover it but the checksum, which is made to fit."""
    path = variant / ".corruptkit" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["source"] |= source
    path.write_text(json.dumps(manifest), encoding="utf-8")
    path.with_name("manifest.sha256").write_bytes(checksum_line(path.read_bytes()))


# Rows


@pytest.mark.parametrize("name", ["written", "overlay"])
def test_variant_reads_as_planned(made: Made, name: str) -> None:
    expected = edit_rows(ROWS, made.plan)
    assert sum(row != after for row, after in zip(ROWS, expected, strict=True)) == made.plan.counts().changed > 0
    opened = made.open(name)
    check_rows(opened.rows(), expected)
    check_rows(map(opened.row, range(24)), expected)
    check_rows(made.open("source").rows(), ROWS)


def test_row_may_be_counted_from_the_end(made: Made) -> None:
    for name in ("source", "written", "overlay"):
        opened = made.open(name)
        for number in (-1, -24, np.int64(3), np.int32(-2)):
            assert opened.row(number) == opened.row(int(number) % 24)


@pytest.mark.parametrize("number", [24, -25, 1 << 40])
def test_row_that_is_not_there_is_an_index_error(made: Made, number: int) -> None:
    with pytest.raises(IndexError, match=f"row {number} of 24"):
        made.open("overlay").row(number)


@pytest.mark.parametrize("key", ["sample", "stem", "json:key"])
def test_row_of_a_shard_that_changed_is_refused(tmp_path: Path, key: str) -> None:
    """The sizes are the same, so every place in the index still leads to a sample: to another one."""
    source = write_shards(tmp_path / "source", ROWS, shards=1)
    opened = open_dataset(source, key=key)
    assert opened.row(0)["key"] == ROWS[0].key
    write_shards(source, ROWS[::-1], shards=1)
    for number in (0, 23):
        with pytest.raises(DatasetError, match=r"shard-00000\.tar.*plan again|shard-00000\.tar.*start again|shard-00000\.tar.*changed"):
            opened.row(number)


def test_index_is_that_of_the_rows_as_they_read(made: Made) -> None:
    written, overlay = made.open("written").index(), made.open("overlay").index()
    assert written.meta.fingerprint == overlay.meta.fingerprint != made.open("source").index().meta.fingerprint
    for name in ("key", "label", "caption", "hash", "order", "shard", "position"):
        assert written.table[name].equals(overlay.table[name])


# Batches


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_batches_are_the_rows_in_order(made: Made, size: int) -> None:
    opened = made.open("overlay")
    batches = list(opened.batches(size=size))
    sizes = [size] * (24 // size) + [24 % size] * (24 % size > 0)
    assert [len(batch) for batch in batches] == sizes
    assert [row for batch in batches for row in batch.to_pylist()] == [dict(row) for row in opened.rows()]


def test_batches_have_one_schema(made: Made) -> None:
    schema = pa.Table.from_batches(made.open("written").batches(size=5)).schema
    kinds = {field.name: field.type for field in schema}
    assert set(kinds) == {"key", "image", "label", "caption", "json"}
    assert kinds["label"] == pa.int64()
    assert is_text(kinds["key"])
    assert is_text(kinds["caption"])
    assert is_bytes(kinds["image"])
    assert is_bytes(kinds["json"])


@pytest.mark.parametrize("order", [[], [5], [3, 1, 2], [0, 0, 23, 0], [-1, -24], np.arange(24)[::-1], range(0, 24, 5)])
def test_batches_come_in_any_order(made: Made, order: Any) -> None:
    opened = made.open("overlay")
    found = [row for batch in opened.batches(order, size=4) for row in batch.to_pylist()]
    assert found == [opened.row(int(number)) for number in order]


def test_batches_without_a_size_are_refused(made: Made) -> None:
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"found a batch size of {size}, expected 1 or more"):
            next(made.open("source").batches(size=size))


def test_rows_without_a_field_have_null_there(tmp_path: Path) -> None:
    rows = [Row("a", None, None), Row("b", None, "second"), Row("c", 3, None), Row("d", 4, "fourth")]
    opened = open_dataset(write_shards(tmp_path / "s", rows, members=("png", "txt", "cls")))
    table = pa.Table.from_batches(opened.batches(size=1))
    assert table["label"].to_pylist() == [None, None, 3, 4]
    assert table["caption"].to_pylist() == [None, "second", None, "fourth"]
    assert list(opened.rows()) == [{"key": row.key, "image": image_bytes(row)} | told for row, told in zip(rows, _told(rows), strict=True)]
    assert pa.Table.from_batches(opened.batches([3, 0], size=1))["label"].to_pylist() == [4, None]


def _told(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    return ({name: value for name, value in (("label", row.label), ("caption", row.caption)) if value is not None} for row in rows)


def test_source_without_rows_has_no_batches(tmp_path: Path) -> None:
    opened = open_dataset(write_shards(tmp_path / "s", [], shards=1))
    assert (len(opened), list(opened.batches()), list(opened.rows()), list(opened.to_webdataset())) == (0, [], [], [])


def test_every_member_is_a_column(tmp_path: Path) -> None:
    opened = open_dataset(write_shards(tmp_path / "s", make_rows(3), members=("seg.png", "png", "npy", "txt", "cls", "meta")))
    (batch,) = opened.batches()
    assert set(batch.schema.names) == {"key", "image", "label", "caption", "seg.png", "npy", "meta"}
    assert batch["npy"].to_pylist() == [f"npy of {row.key}".encode() for row in make_rows(3)]


# webdataset


def read_with_webdataset(folder: Path) -> list[dict[str, Any]]:
    return list(wds.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=False))


def bare_samples(samples: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in sample.items() if name not in IN_PROCESS} for sample in samples]


def test_webdataset_reads_source_and_variant(made: Made) -> None:
    source, variant = (bare_samples(read_with_webdataset(folder)) for folder in (made.source, made.written))
    assert [sample["__key__"] for sample in source] == [sample["__key__"] for sample in variant] == [row.key for row in ROWS]
    assert [sample["png"] for sample in source] == [sample["png"] for sample in variant]
    for sample, row in zip(variant, edit_rows(ROWS, made.plan), strict=True):
        assert (sample["txt"].decode(), int(sample["cls"])) == (row.caption, row.label)
        assert json.loads(sample["json"]) == {"key": row.key, "caption": row.caption, "label": row.label, "width": 64}


def test_webdataset_reads_a_variant_of_real_images(openmoji: Path, tmp_path: Path) -> None:
    source = open_dataset(openmoji / "openmoji-train-0003.tar", classes=10)
    plan = make_plan(Recipe(seed=0, chain=[Swap(ratio="0.05"), Flip(ratio="0.05")]), source.index())
    write_variant(source, plan, tmp_path / "variant")
    new = {(edit["key"], edit["field"]): edit["new"] for edit in plan.composed.to_pylist()}
    shard = "openmoji-train-0003.tar"
    pair = [wds.WebDataset(str(folder / shard), shardshuffle=False).decode("pil") for folder in (openmoji, tmp_path / "variant")]
    changed = 0
    for before, after in zip(*pair, strict=True):
        key = before["__key__"]
        assert (after["txt"], after["cls"]) == (new.get((key, "caption"), before["txt"]), int(new.get((key, "label"), before["cls"])))
        assert (after["json"]["caption"], after["json"]["label"]) == (after["txt"], after["cls"])
        assert before["png"].tobytes() == after["png"].tobytes()
        changed += before["json"] != after["json"]
    assert changed == plan.counts().changed > 80


@pytest.mark.parametrize("name", ["source", "written", "overlay"])
def test_samples_are_those_that_webdataset_reads(made: Made, name: str) -> None:
    opened = made.open(name)
    folder = made.source if name == "source" else made.written
    found = list(opened.to_webdataset())
    theirs = read_with_webdataset(folder)
    assert bare_samples(found) == bare_samples(theirs)
    assert [Path(sample["__url__"]).name for sample in found] == [Path(sample["__url__"]).name for sample in theirs]


def test_samples_feed_a_pipeline_of_webdataset(made: Made) -> None:
    stages = [wds.decode(), wds.to_tuple("__key__", "txt", "cls", "json"), wds.batched(5, partial=True)]
    mine = list(wds.DataPipeline(made.open("overlay").to_webdataset(), *stages))
    urls = sorted(map(str, made.written.glob("*.tar")))
    theirs = list(wds.DataPipeline(wds.SimpleShardList(urls), wds.tarfile_to_samples(), *stages))
    assert [[list(column) for column in batch] for batch in mine] == [[list(column) for column in batch] for batch in theirs]
    assert [len(batch[0]) for batch in mine] == [5, 5, 5, 5, 4]


def test_pipeline_shuffles_and_runs_again(made: Made) -> None:
    pipeline = wds.DataPipeline(made.open("overlay").to_webdataset(), wds.shuffle(24, initial=24), wds.to_tuple("__key__", "txt"))
    expected = sorted((row.key, row.caption.encode()) for row in edit_rows(ROWS, made.plan))
    epochs = [list(pipeline) for _ in range(2)]
    assert [sorted(map(tuple, epoch)) for epoch in epochs] == [expected, expected]


def keys_by_worker(opened: Dataset, workers: int, context: str | None = None) -> list[str]:
    """The keys that a real loader yields of a real pipeline."""
    pipeline = wds.DataPipeline(opened.to_webdataset(), wds.to_tuple("__key__"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than this machine has cores
        loader = DataLoader(pipeline, batch_size=None, num_workers=workers, multiprocessing_context=context if workers else None)
        return [key for (key,) in loader]


@pytest.mark.parametrize("workers", [0, 2, 3, 7])
def test_loader_workers_share_the_shards(made: Made, workers: int) -> None:
    """Seven workers of five shards: two have nothing to do."""
    found = keys_by_worker(made.open("overlay"), workers, "fork")
    assert sorted(found) == [row.key for row in ROWS]


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_shards(made: Made, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append(keys_by_worker(made.open("written"), workers, "fork"))
    assert all(parts)
    assert sorted(itertools.chain(*parts)) == [row.key for row in ROWS]


def test_lone_process_has_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert worker_share() == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert worker_share() == (2, 3)


# torch


@pytest.mark.parametrize("name", ["written", "overlay"])
def test_torch_rows_are_the_rows(made: Made, name: str) -> None:
    opened = made.open(name)
    rows = opened.to_torch()
    assert len(rows) == 24
    assert [rows[number] for number in range(24)] == list(opened.rows())
    assert rows.__getitems__([5, 0, -1]) == [opened.row(5), opened.row(0), opened.row(23)]


@pytest.mark.parametrize(
    ("name", "context"), [("written", None), ("overlay", None), ("written", "fork"), ("overlay", "fork"), ("overlay", "spawn")]
)
def test_loader_shuffles_with_its_generator(made: Made, name: str, context: str | None) -> None:
    """The order is that of the generator alone, with no worker or two, started in either way."""
    opened = made.open(name)

    def load_batches(workers: int, started: str | None) -> list[list[dict[str, Any]]]:
        order = torch.Generator().manual_seed(3)
        how = {"num_workers": workers, "multiprocessing_context": started}
        return list(DataLoader(opened.to_torch(), batch_size=5, shuffle=True, generator=order, collate_fn=list, **how))

    found = load_batches(2 if context else 0, context)
    assert found == load_batches(0, None)
    assert [len(batch) for batch in found] == [5, 5, 5, 5, 4]
    loaded = [row for batch in found for row in batch]
    assert loaded != list(opened.rows())
    assert sorted(loaded, key=lambda row: row["key"]) == list(opened.rows())


def test_loader_fetches_a_batch_at_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows = made.open("overlay").to_torch()
    whole = type(rows).__getitems__
    monkeypatch.setattr(type(rows), "__getitems__", lambda self, numbers: asked.append(list(numbers)) or whole(self, numbers))
    assert len(list(DataLoader(rows, batch_size=10, collate_fn=list))) == 3
    assert asked == [[*range(10)], [*range(10, 20)], [*range(20, 24)]]


def test_loader_collates_conditions_to_tensors(made: Made) -> None:
    def collate(rows: list[dict[str, Any]]) -> tuple[torch.Tensor, list[str]]:
        return torch.tensor([row["label"] for row in rows]), [row["caption"] for row in rows]

    (labels, captions), *_ = DataLoader(made.open("overlay").to_torch(), batch_size=24, collate_fn=collate)
    assert labels.dtype == torch.int64
    expected = edit_rows(ROWS, made.plan)
    assert (labels.tolist(), captions) == ([row.label for row in expected], [row.caption for row in expected])


def test_pickled_data_set_leaves_its_index_behind(made: Made) -> None:
    opened = made.open("overlay")
    before = len(pickle.dumps(opened))
    assert opened.row(3)["key"] == ROWS[3].key
    assert {"_source_index", "_edit_map"} <= vars(opened).keys()
    data = pickle.dumps(opened)
    assert len(data) == before
    again = pickle.loads(data)  # noqa: S301 - our own bytes
    assert not {"_source_index", "_edit_map"} & vars(again).keys()
    assert again.row(3) == opened.row(3)
    assert list(again.rows()) == list(opened.rows())


def read_elsewhere(opened: Dataset, numbers: list[int]) -> list[dict[str, Any]]:
    return [opened.row(number) for number in numbers]


def test_another_process_reads_the_same(made: Made) -> None:
    opened = made.open("overlay")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.starmap(read_elsewhere, [(opened, [0, 1, 2]), (opened, [23, 5])])
    assert parts == [read_elsewhere(opened, [0, 1, 2]), read_elsewhere(opened, [23, 5])]


# Edits in memory


def test_recipe_in_memory_reads_as_the_variant_on_disk(made: Made) -> None:
    fresh = made.open("source").with_recipe(RECIPE)
    assert list(fresh.rows()) == list(made.open("written").rows()) == list(made.open("overlay").rows())
    assert list(made.open("source").with_edits(made.plan.edits).rows()) == list(fresh.rows())
    check_rows(made.open("source").rows(), ROWS)


@pytest.mark.parametrize("epoch", [0, 1, 12])
def test_epoch_is_drawn_anew_and_always_the_same(made: Made, epoch: int) -> None:
    source = made.open("source")
    found = source.with_recipe(RECIPE, epoch=epoch)
    plan = make_plan(Recipe(seed=f"4.e{epoch}", chain=RECIPE.chain), source.index())
    check_rows(found.rows(), edit_rows(ROWS, plan))
    assert plan.variant_id != made.plan.variant_id
    assert list(found.rows()) == list(made.open("source").with_recipe(RECIPE, epoch=epoch).rows()) != list(source.rows())


def test_dropped_labels_in_memory_leave_the_number_of_classes(tmp_path: Path) -> None:
    source = open_dataset(write_shards(tmp_path / "src", make_rows(40)))
    recipe = Recipe(seed=0, chain=[Drop(ratio="0.3", mode="label")])
    dropped = source.with_recipe(recipe)
    plan = make_plan(recipe, source.index())
    write_variant(source, plan, tmp_path / "v")
    opened = open_dataset(tmp_path / "v")
    assert [found.index().meta.classes for found in (source, dropped, opened)] == [10, 10, 10]
    assert dropped.index().numbers("label").max() == 10
    more = Recipe(seed=1, chain=[Flip(ratio="1")])
    plans = [make_plan(more, found.index()) for found in (dropped, opened)]
    assert plans[0].variant_id == plans[1].variant_id


@pytest.mark.parametrize("name", ["written", "overlay"])
def test_recipe_over_a_variant_starts_from_what_it_reads(made: Made, name: str) -> None:
    opened = made.open(name)
    more = Recipe(seed=9, chain=[Swap(ratio="1"), Flip(ratio="1", mode="pair")])
    plan = make_plan(more, opened.index())
    check_rows(opened.with_recipe(more).rows(), edit_rows(edit_rows(ROWS, made.plan), plan))
    check_rows(map(opened.with_recipe(more).row, range(24)), edit_rows(edit_rows(ROWS, made.plan), plan))


def test_edits_of_another_source_are_refused(made: Made, tmp_path: Path) -> None:
    other = open_dataset(write_shards(tmp_path / "s", [row._replace(key=f"x{row.key}") for row in ROWS]))
    with pytest.raises(IntegrityError, match="edits of rows that the source does not have; name the source it was made of"):
        other.with_edits(made.plan.edits)


# Overlays and their sources


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A source and an overlay of it, for one test alone."""
    source = write_shards(tmp_path / "source", ROWS, shards=3)
    return source, make_overlay(source, tmp_path / "overlay")


def test_overlay_reads_over_a_source_that_was_packed_anew(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The same rows in other shards, another order and another form of tar."""
    source, overlay = pair
    expected = {row["key"]: (row["label"], row["caption"], row["image"]) for row in open_dataset(overlay).rows()}
    other = tmp_path / "other"
    write_shards(other, ROWS[::-1], shards=7, name="part-{}.tar", members=("cls", "json", "png", "txt"), form=tarfile.USTAR_FORMAT)
    opened = open_dataset(overlay, source=other)
    assert {row["key"]: (row["label"], row["caption"], row["image"]) for row in opened.rows()} == expected
    assert [row["key"] for row in opened.rows()] == [row.key for row in ROWS[::-1]]
    assert opened.row(3)["label"] == expected[ROWS[20].key][0]
    shutil.rmtree(source)
    shutil.move(other, source)
    assert len(list(open_dataset(overlay).rows())) == 24


def test_moved_source_is_named_or_asked_for(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, overlay = pair
    expected = list(open_dataset(overlay).rows())
    shutil.move(source, tmp_path / "moved")
    with pytest.raises(DatasetError) as caught:
        open_dataset(overlay)
    assert str(source) in str(caught.value)
    assert "the variant's source is not there" in str(caught.value)
    assert "--source PATH" in str(caught.value)
    assert list(open_dataset(overlay, source=tmp_path / "moved").rows()) == expected


@pytest.mark.parametrize(
    "rows",
    [ROWS[:-1], [*ROWS[:-1], ROWS[-1]._replace(label=0)], [*ROWS[:-1], ROWS[-1]._replace(caption="x")]],
    ids=["fewer", "label", "caption"],
)
def test_other_source_is_refused_by_its_fingerprint(pair: tuple[Path, Path], tmp_path: Path, rows: list[Row]) -> None:
    write_shards(tmp_path / "other", rows)
    with pytest.raises(IntegrityError, match=r"other, .*overlay: fingerprint \w+\.\.\., expected fingerprint \w+\.\.\.; name the source"):
        open_dataset(pair[1], source=tmp_path / "other")


def test_changed_source_is_refused(pair: tuple[Path, Path]) -> None:
    source, overlay = pair
    write_shards(source, [ROWS[0]._replace(caption="changed"), *ROWS[1:]], shards=3)
    with pytest.raises(IntegrityError, match="fingerprint"):
        open_dataset(overlay)


@pytest.mark.parametrize("pattern", ["shard-*.tar", "shard-00001.tar"])
def test_overlay_of_a_pattern_or_a_single_tar_finds_it_again(pair: tuple[Path, Path], tmp_path: Path, pattern: str) -> None:
    overlay = make_overlay(pair[0] / pattern, tmp_path / "part")
    expected = open_dataset(pair[0] / pattern).with_recipe(Recipe(seed=0, chain=[Flip(ratio="0.5")]))
    assert list(open_dataset(overlay).rows()) == list(expected.rows())


def test_overlay_over_a_written_variant_reads_through_it(made: Made, tmp_path: Path) -> None:
    overlay = make_overlay(made.written, tmp_path / "overlay")
    expected = made.open("written").with_recipe(Recipe(seed=0, chain=[Flip(ratio="0.5")]))
    assert list(open_dataset(overlay).rows()) == list(expected.rows())


def stack_overlays(source: Path, folder: Path, count: int) -> Path:
    place = source
    for number in range(count):
        place = make_overlay(place, folder / f"level-{number:02d}", "0.3", seed=number)
    return place


def test_sixteen_overlays_over_each_other_are_read(tmp_path: Path) -> None:
    rows = make_rows(6, classes=5)
    source = write_shards(tmp_path / "source", rows, shards=1)
    top = stack_overlays(source, tmp_path, 16)
    expected = open_dataset(source)
    for number in range(16):
        expected = expected.with_recipe(Recipe(seed=number, chain=[Flip(ratio="0.3")]))
    assert list(open_dataset(top).rows()) == list(expected.rows())
    with pytest.raises(DatasetError, match="more than 16 overlays over each other; materialise one of them"):
        open_dataset(make_overlay_of(top, tmp_path / "one-too-many"))


def make_overlay_of(top: Path, out: Path) -> Path:
    """An overlay over a stack that is as high as can be: made by copying, since nobody could open its source to make it."""
    shutil.copytree(top, out)
    change_manifest(out, source_url=str(top))
    return out


def test_overlay_over_itself_ends(pair: tuple[Path, Path]) -> None:
    _, overlay = pair
    change_manifest(overlay, source_url=str(overlay))
    with pytest.raises(DatasetError, match="more than 16 overlays over each other"):
        open_dataset(overlay)


def test_two_overlays_over_each_other_end(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, first = pair
    second = make_overlay(source, tmp_path / "second", "0.1")
    change_manifest(first, source_url=str(second))
    change_manifest(second, source_url=str(first))
    with pytest.raises(DatasetError, match="more than 16 overlays over each other"):
        open_dataset(first)


# What a manifest answers


def test_variant_is_opened_as_its_manifest_says(tmp_path: Path) -> None:
    """Key rule, split, classes and columns; the source's other conditions would read otherwise."""
    (tmp_path / "source").mkdir()
    members = [
        (f"d{n}/{n}.{suffix}", content)
        for n in range(6)
        for suffix, content in (("txt", b"decoy"), ("alt", b"alt %d" % n), ("cls", b"9"), ("fine", b"%d" % n))
    ]
    write_tar(tmp_path / "source" / "x-validation-0.tar", members)
    how = {"key": "stem", "classes": 40, "label_column": "fine", "caption_column": "alt", "split": "val"}
    source = open_dataset(tmp_path / "source", **how)
    plan = make_plan(Recipe(seed=0, chain=[Flip(ratio="0.5"), Swap(ratio="0.5")]), source.index())
    for form in ("webdataset", "overlay"):
        write_variant(source, plan, tmp_path / form, form)
        opened = open_dataset(tmp_path / form)
        assert (opened.split, opened.classes, opened.layout) == ("validation", 40, source.layout)
        assert opened.index().identity() | {"fingerprint": ""} == source.index().identity() | {"fingerprint": ""}
        expected = edit_rows([Row(str(n), n, f"alt {n}") for n in range(6)], plan)
        assert [(row["key"], row["label"], row["caption"]) for row in opened.rows()] == [(r.key, r.label, r.caption) for r in expected]


@pytest.mark.parametrize("flag", [{"classes": 3}, {"key": "stem"}, {"split": "test"}, {"label_column": "x"}, {"caption_column": "x"}])
@pytest.mark.parametrize("name", ["written", "overlay"])
def test_flag_against_the_manifest_is_refused(made: Made, name: str, flag: dict[str, Any]) -> None:
    """A variant answers these questions itself: an answer that differs is a mistake, not a wish that nobody heard."""
    with pytest.raises(CorruptkitError, match=next(iter(flag)).replace("_", ".")):
        open_dataset(getattr(made, name), **flag)


def test_variant_is_named_after_its_folder(made: Made) -> None:
    assert [made.open(name).name for name in ("source", "written", "overlay")] == ["source", "written", "overlay"]
    assert open_dataset(made.source / "shard-00000.tar").name == "shard-00000"
    assert open_dataset(made.source / "shard-*.tar").name == "source"


def test_unfinished_variant_is_no_source(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.written, tmp_path / "half")
    (tmp_path / "half" / ".corruptkit" / "manifest.json").unlink()
    (tmp_path / "half" / ".corruptkit" / "partial").mkdir()
    with pytest.raises(DatasetError, match="an unfinished variant, expected a finished one; start the same `corruptkit make` again"):
        open_dataset(tmp_path / "half")


def test_variant_of_another_version_is_refused(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.written, tmp_path / "new")
    path = tmp_path / "new" / ".corruptkit" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"format_version": 1', b'"format_version": 2'))
    path.with_name("manifest.sha256").write_bytes(checksum_line(path.read_bytes()))
    with pytest.raises(DatasetError, match="format_version 2, expected 1; read it with the corruptkit that wrote it"):
        open_dataset(tmp_path / "new")


# What reading needs

READ = """
import sys, corruptkit as ck
opened = ck.open_dataset(sys.argv[1])
assert sum(len(batch) for batch in opened.batches()) == len(opened) == len(opened.to_torch()) == 24
assert len(list(opened.to_webdataset())) == 24
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("name", ["source", "written", "overlay"])
def test_reading_imports_nothing_that_a_trainer_may_lack(made: Made, name: str) -> None:
    done = subprocess.run([sys.executable, "-c", READ, getattr(made, name)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "pyarrow" in loaded
    assert not loaded & {"polars", "datasets", "torch", "webdataset", "fsspec", "ray", "emoji", "resvg_py", "PIL"}
