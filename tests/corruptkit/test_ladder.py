"""Variants of one source in one call: the files of single calls, the source indexed once and read shard by shard for all of them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corruptkit import dataset as datasets
from corruptkit import tasks as write_tasks
from corruptkit import write
from corruptkit.cli import main
from corruptkit.corruptions import Flip, Swap
from corruptkit.dataset import Dataset
from corruptkit.errors import ConflictError, DatasetError
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan, make_plans
from corruptkit.recipe import Recipe
from corruptkit.verify import verify
from tests.corruptkit.damage import (
    PARTIAL,
    PATIENCE,
    Disk,
    assert_whole,
    assert_wreck,
    hook_environment,
    published_source,
    run_command,
    small_disk,
)
from tests.corruptkit.shards import HIDDEN, read_variant

FORMS: list[write.Format] = ["webdataset", "parquet", "arrow", "overlay"]
RECIPES = [Recipe(seed=seed, chain=[Flip(ratio="0.5"), Swap(ratio=ratio)]) for ratio in ("0.2", "0.6") for seed in (0, 1)]
NAMES = [f"{recipe.chain[1].ratio}-{recipe.seed}" for recipe in RECIPES]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return published_source(tmp_path / "source")


@pytest.fixture
def dataset(source: Path) -> Dataset:
    return open_dataset(source)


def ladder(dataset: Dataset, folder: Path) -> list[tuple[Plan, Path]]:
    return [(plan, folder / name) for name, plan in zip(NAMES, make_plans(RECIPES, dataset.index()), strict=True)]


# The same files


@pytest.mark.parametrize(("form", "workers"), [*((form, 1) for form in FORMS), ("webdataset", 2)])
def test_variants_of_one_call_are_those_of_single_calls(form: write.Format, workers: int, dataset: Dataset, tmp_path: Path) -> None:
    many = write.write_variants(dataset, ladder(dataset, tmp_path / "many"), form, workers=workers)
    for recipe, name, manifest in zip(RECIPES, NAMES, many, strict=True):
        alone = write.write_variant(dataset, make_plan(recipe, dataset.index()), tmp_path / "alone" / name, form)
        assert (manifest.identity, manifest.shards, manifest.files) == (alone.identity, alone.shards, alone.files)
        assert_whole(tmp_path / "many" / name, tmp_path / "alone" / name)
    assert write.write_variants(dataset, ladder(dataset, tmp_path / "many"), form) == many, "the same again changes nothing"


def test_folder_of_images_is_written_side_by_side(dataset: Dataset, tmp_path: Path) -> None:
    """Its tasks are none of its shards."""
    for row in dataset.rows():
        place = tmp_path / "images" / f"{row['label']}" / f"{row['key']}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(row["image"])
    folder = open_dataset(tmp_path / "images")
    plans = list(make_plans([Recipe(seed=seed, chain=[Flip(ratio="0.5")]) for seed in (0, 1)], folder.index()))
    write.write_variants(folder, [(plan, tmp_path / f"many-{number}") for number, plan in enumerate(plans)])
    for number, plan in enumerate(plans):
        write.write_variant(folder, plan, tmp_path / f"alone-{number}")
        assert_whole(tmp_path / f"many-{number}", tmp_path / f"alone-{number}")


# What is read


def test_all_tasks_of_a_shard_come_before_the_next_shard(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write_shard = list[tuple[str, str]](), write.write_shard
    monkeypatch.setattr(write, "write_shard", lambda task: [read.append((task.name, task.out.name)), write_shard(task)][1])
    write.write_variants(dataset, ladder(dataset, tmp_path))
    assert read == [(f"{shard:05d}.tar", name) for shard in range(3) for name in NAMES]


def test_task_has_its_edits_when_its_turn_has_come(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits of all shards of all variants at once would need more memory than anything else."""
    events, write_shard, find_spots = list[str](), write.write_shard, write_tasks.find_spots
    monkeypatch.setattr(write, "write_shard", lambda task: [events.append("write"), write_shard(task)][1])
    monkeypatch.setattr(write_tasks, "find_spots", lambda *args: [events.append("fill"), find_spots(*args)][1])
    write.write_variants(dataset, ladder(dataset, tmp_path))
    assert events == ["fill", *["fill"] * 3, *["write"] * 4] * 3


def test_overlays_index_once_and_hold_one_plan_at_a_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()
    for module, name in ((datasets, "find_index"), (write, "check_sidecar"), (write, "map_shards"), (write, "write_edits")):
        monkeypatch.setattr(module, name, note_calls(getattr(module, name), name, calls))
    words = ["--swap", "0.1,0.2,0.5", "--seed", "0,1", "--format", "overlay", "--out", str(tmp_path / "ladder")]
    decide = Swap.decide
    monkeypatch.setattr(Swap, "decide", lambda *args: [calls.append("decide"), decide(*args)][1])
    assert main(["make", "--source", str(source), *words, "--workers", "1"]) == 0
    assert [name for name in calls if name != "map_shards"] == [
        "find_index",
        "decide",  # seed 0 at 0.5, and what belongs to it at 0.1
        *["check_sidecar"] * 3,
        "write_edits",
        "decide",  # seed 1
        *["write_edits"] * 5,
    ]


def note_calls(function: object, name: str, calls: list[str]) -> object:
    return lambda *args, **how: [calls.append(name), function(*args, **how)][1]


# Nothing where one is wrong


def test_one_target_that_is_taken_leaves_the_others_alone(dataset: Dataset, tmp_path: Path) -> None:
    variants = ladder(dataset, tmp_path / "many")
    variants[2][1].mkdir(parents=True)
    (variants[2][1] / "mine.txt").touch()
    with pytest.raises(ConflictError, match=r"0\.6-0: the folder holds 'mine.txt'"):
        write.write_variants(dataset, variants)
    assert [path.name for path in (tmp_path / "many").rglob("*")] == ["0.6-0", "mine.txt"]


def test_two_variants_of_one_folder_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    (first, place), (second, _), *_ = ladder(dataset, tmp_path / "many")
    with pytest.raises(ConflictError, match="two variants are to lie there"):
        write.write_variants(dataset, [(first, place), (second, place.parent / "x" / ".." / place.name)])
    assert not (tmp_path / "many").exists()


def test_ratio_or_seed_that_stands_twice_is_made_once(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["make", "--source", str(source), "--swap", "0.2,0.20,.4", "--seed", "0,00", "--out", str(tmp_path / "ladder")]
    assert main(words) == 0
    assert capsys.readouterr().out.count("variant_id") == 2
    assert sorted(path.name for path in (tmp_path / "ladder").iterdir()) == ["source-swap-0.2-s0", "source-swap-0.4-s0"]


def test_room_is_asked_for_all_variants_together(dataset: Dataset, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, size = shutil.disk_usage, sum(path.stat().st_size for path in source.glob("*.tar"))
    monkeypatch.setattr(write.shutil, "disk_usage", lambda path: usage(path)._replace(free=3 * size))
    variants = ladder(dataset, tmp_path / "many")
    with pytest.raises(DatasetError, match=f"0.2-0: {3 * size:,} bytes are free, expected room for"):
        write.write_variants(dataset, variants)
    assert list((tmp_path / "many").iterdir()) == []
    assert len(write.write_variants(dataset, variants[:2])) == 2


def test_source_of_another_plan_is_refused_before_anything_is_written(dataset: Dataset, tmp_path: Path) -> None:
    other = open_dataset(published_source(tmp_path / "other", samples=9))
    alien = make_plan(RECIPES[0], other.index())
    with pytest.raises(DatasetError, match="make the plan of this source"):
        write.write_variants(dataset, [*ladder(dataset, tmp_path / "many"), (alien, tmp_path / "alien")])
    assert not (tmp_path / "many").exists()


# Ended in the middle, and started again


class Ladder:
    """A `make` of four variants, and how it looks when nobody disturbs it."""

    def __init__(self, folder: Path, *, image: int = 20_000) -> None:
        self.folder = folder
        self.source = published_source(folder / "source", image=image)
        assert self.run(folder / "whole") == (0, "")
        self.names = sorted(path.name for path in (folder / "whole").iterdir())
        assert len(self.names) == 4

    def words(self, out: Path, workers: int = 1) -> list[str]:
        ladder = ["--swap", "0.2,0.6", "--seed", "0,1", "--out", str(out), "--workers", str(workers)]
        return ["make", "--source", str(self.source), *ladder]

    def run(self, out: Path, workers: int = 1, **asked: object) -> tuple[int, str]:
        status, _, errors = run_command(*self.words(out, workers), env=hook_environment(self.folder, **asked))
        return status, errors

    def check_wreck(self, out: Path) -> int:
        """The number of variants that are finished."""
        for name in self.names:
            assert_wreck(out / name, self.folder / "whole" / name)
        return sum((out / name / HIDDEN / "manifest.json").exists() for name in self.names)

    def check_whole(self, out: Path) -> None:
        for name in self.names:
            assert_whole(out / name, self.folder / "whole" / name)


@pytest.fixture(scope="module")
def rungs(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    return Ladder(tmp_path_factory.mktemp("ladder"))


@pytest.mark.parametrize(
    ("at", "workers", "blow"), [(40, 1, "kill"), (85, 1, "kill"), (85, 1, "interrupt"), (17, 2, "kill"), (225, 1, "kill"), (340, 1, "kill")]
)
def test_ladder_is_resumed_where_it_was_ended(at: int, workers: int, blow: str, rungs: Ladder, tmp_path: Path) -> None:
    """While folders are claimed, while shards are written, and between one manifest and the next."""
    out = tmp_path / "out"
    status, errors = rungs.run(out, workers, at=at, who="main", blow=blow)
    assert status == (130 if blow == "interrupt" else -signal.SIGKILL), errors
    finished = rungs.check_wreck(out)
    assert (0 < finished < 4) == (at == 340)
    done = [out / name / record.stem for name in rungs.names for record in (out / name / PARTIAL).glob("*.tar.json")]
    numbers = {shard: shard.stat().st_ino for shard in done}
    assert (len(numbers) > 1) == (at > 40 and workers == 1)
    assert rungs.run(out, workers) == (0, "")
    rungs.check_whole(out)
    assert {shard: shard.stat().st_ino for shard in done} == numbers, "finished shards are left alone"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as found:
        if found is None:
            pytest.skip("neither mount nor unshare --user --mount is allowed here")
        yield found


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_names_the_variant_and_is_resumed(workers: int, disk: Disk, rungs: Ladder) -> None:
    """A megabyte holds a shard of each variant and no more; 2.4 are needed."""
    words = [*disk.prefix, sys.executable, "-m", "corruptkit", *rungs.words(disk.path / "out", workers)]
    env = hook_environment(rungs.folder, free=1 << 40)
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {disk.path / 'out'}/source-swap-0."), done.stderr
    assert done.stderr.endswith(": no space left on the device; free some space and start the same command again: it resumes\n")
    assert rungs.check_wreck(disk.seen / "out") == 0
    assert list((disk.seen / "out").rglob("*.tmp")) == []
    disk.resize("8m")
    assert subprocess.run(words, capture_output=True, text=True, env=env, timeout=PATIENCE, check=False).returncode == 0
    rungs.check_whole(disk.seen / "out")


def test_finished_variants_of_a_ladder_are_left_alone(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = ladder(dataset, tmp_path / "many")
    first = write.write_variants(dataset, variants[1:3])
    written, write_shard = list[str](), write.write_shard
    monkeypatch.setattr(write, "write_shard", lambda task: [written.append(task.out.name), write_shard(task)][1])
    manifests = write.write_variants(dataset, variants)
    assert manifests[1:3] == first
    assert written == [NAMES[0], NAMES[3]] * 3
    for recipe, (plan, place) in zip(RECIPES, variants, strict=True):
        assert plan.variant_id == make_plan(recipe, dataset.index()).variant_id
        assert verify(place, source=dataset.path, deep=True).problems == ()
        assert read_variant(place)
