"""The laws of SPEC.md section 7 about how files come to be: 1 worker, 2 resume, 6 locality."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit import write
from corruptkit.errors import CorruptkitError
from corruptkit.opening import open_dataset
from corruptkit.plan import make_plan
from corruptkit.recipe import parse_recipe
from tests.corruptkit.cases import Case, draw_cases, full_case, make_variant
from tests.corruptkit.shards import read_tree, read_variant
from tests.corruptkit.strategies import examples


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return full_case(tmp_path)


# 1 Worker


@pytest.mark.parametrize("workers", [2, 3])
def test_law_1_worker(workers: int, case: Case) -> None:
    alone = read_variant(case.make("alone"))
    shutil.rmtree(case.source / ".corruptkit")  # so that the index is made by several as well
    dataset = open_dataset(case.source, classes=case.classes)
    dataset.index(workers=workers)
    make_variant(case.recipe, dataset, case.folder / "many", workers=workers)
    assert read_variant(case.folder / "many") == alone
    assert len(alone) > 10


@examples(2)
@given(data=st.data())
def test_law_1_worker_of_odd_sources(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = data.draw(draw_cases(tmp_path_factory))
    assert read_variant(case.make("one")) == read_variant(case.make("two", workers=2))
    assert read_variant(case.make("overlay-one", "overlay")) == read_variant(case.make("overlay-two", "overlay", workers=2))


# 2 Resume


class Cut(BaseException):
    """The end of a process, as nearly as one can have it inside one: whatever is called afterwards raises it too."""


CALLS = ("fsync", "replace", "unlink", "mkdir", "rmdir", "writev", "open")


class Scissors:
    """Counts calls to the system and, from the k-th on (or at the k-th alone), lets them fail."""

    def __init__(self, patch: pytest.MonkeyPatch, *, fatal: bool) -> None:
        self.patch, self.fatal, self.count, self.limit = patch, fatal, 0, 10**9

    def arm(self, limit: int) -> None:
        self.count, self.limit = 0, limit
        for name in CALLS:
            self.patch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            self.count += 1
            if self.fatal and self.count >= self.limit:
                raise Cut
            if self.count == self.limit:
                raise OSError(5, "Input/output error")
            return call(*args, **named)

        return counted


def cut_runs(case: Case, form: write.Format, *, fatal: bool) -> Iterator[tuple[int, Path]]:
    """A run that is cut at its k-th call, for each k until one comes to its end: k, and the folder that it was writing."""
    for limit in range(1, 1000):
        shutil.rmtree(case.source / ".corruptkit", ignore_errors=True)
        out = case.folder / f"cut-{limit}"
        with pytest.MonkeyPatch.context() as patch:
            scissors = Scissors(patch, fatal=fatal)
            scissors.arm(limit)
            with suppress(Cut, CorruptkitError):
                case.make(out.name, form)
            if scissors.count < limit:
                return
        yield limit, out
    raise AssertionError("it never comes to its end")


@pytest.mark.parametrize("form", ["webdataset", "overlay"])
@pytest.mark.parametrize("fatal", [True, False], ids=["killed", "failed"])
def test_law_2_resume(form: write.Format, fatal: bool, case: Case) -> None:
    """Cut at any call to the system and started again; meanwhile, what has a final name is whole."""
    whole = read_tree(case.make("whole", form))
    expected, count = read_variant(case.folder / "whole"), 0
    for limit, out in cut_runs(case, form, fatal=fatal):
        for name, content in read_tree(out).items() if out.exists() else ():
            written = not name.startswith(".corruptkit/partial/") and Path(name).name not in ("manifest.json", "manifest.sha256")
            assert not written or content == whole[name], f"{name} after call {limit}"
        case.make(out.name, form)
        assert read_variant(out) == expected, f"resumed after call {limit}"
        shutil.rmtree(out)
        count = limit
    assert count > (100 if form == "webdataset" else 30)


def test_law_2_resume_leaves_finished_shards_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in the last of three shards, a second run writes that one alone."""
    calls = list[str]()

    def write_some(task: write.ShardTask) -> write.ShardDone:
        calls.append(task.source.name)
        if len(calls) == 3:
            raise Cut
        return write_shard(task)

    write_shard = write.write_shard
    monkeypatch.setattr(write, "write_shard", write_some)
    with pytest.raises(Cut):
        case.make("cut")
    shards = [case.folder / "cut" / name for name in calls]
    numbers = [path.stat().st_ino for path in shards[:2]]
    assert not shards[2].exists()
    case.make("cut")
    assert [path.stat().st_ino for path in shards[:2]] == numbers
    assert read_variant(case.folder / "cut") == read_variant(case.make("whole"))


# 6 Locality


def test_law_6_locality(case: Case) -> None:
    """Shard i is written with no other shard there, in any order, from its task alone."""
    whole, out = case.make("whole"), case.folder / "lonely"
    dataset = open_dataset(case.source, classes=case.classes)
    plan = make_plan(parse_recipe(case.recipe, "test"), dataset.index())
    bare = write.list_tasks(dataset, out, "webdataset", plan.variant_id, null_label=False)
    tasks = list(write.fill_tasks(dataset, plan.composed, bare))
    (out / ".corruptkit" / "partial").mkdir(parents=True)
    kept = {path: (path.read_bytes(), path.stat()) for path in case.source.iterdir() if path.is_file()}
    assert len(tasks) == 3
    for task in reversed(tasks):
        shutil.rmtree(case.source)
        case.source.mkdir()
        for path, (content, stat) in kept.items():
            if path.name.startswith(task.source.file.stem):
                path.write_bytes(content)
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        done = write.write_shard(task)
        assert (out / done.shard.name).read_bytes() == (whole / task.source.name).read_bytes()
    originals = [(out / ".corruptkit" / "partial" / f"{task.source.name}.originals").read_bytes() for task in tasks]
    assert (whole / ".corruptkit" / "originals.tar").read_bytes().startswith(b"".join(originals))


@examples(10)
@given(data=st.data())
def test_law_6_locality_of_odd_sources(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = data.draw(draw_cases(tmp_path_factory))
    whole, out = case.make("whole"), case.folder / "lonely"
    dataset = open_dataset(case.source, classes=case.classes)
    plan = make_plan(parse_recipe(case.recipe, "test"), dataset.index())
    bare = write.list_tasks(dataset, out, "webdataset", plan.variant_id, null_label=False)
    tasks = list(write.fill_tasks(dataset, plan.composed, bare))
    (out / ".corruptkit" / "partial").mkdir(parents=True)
    task = data.draw(st.sampled_from(tasks))
    for other in tasks:
        if other is not task:
            other.source.file.unlink()
    write.write_shard(task)
    assert (out / task.source.name).read_bytes() == (whole / task.source.name).read_bytes()
