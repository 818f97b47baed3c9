"""Runs that are killed, interrupted or out of room: nothing half-written carries a final name, and the same command finishes the work."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corruptkit import write
from corruptkit.errors import DatasetError
from corruptkit.opening import open_dataset
from corruptkit.plan import make_plan
from corruptkit.verify import verify
from tests.corruptkit.damage import (
    PARTIAL,
    PATIENCE,
    Disk,
    assert_gone,
    assert_no_traceback,
    assert_whole,
    assert_wreck,
    chain_file,
    chain_recipe,
    draw_number,
    end_command,
    group_processes,
    hook_environment,
    published_source,
    run_command,
    small_disk,
    start_command,
)
from tests.corruptkit.shards import HIDDEN, read_variant

ONE_LINE = "interrupted; start the same command again to resume\n"


class Job:
    """A `make` of a chain over several shards with side-cars, and how it looks when nobody disturbs it."""

    def __init__(self, folder: Path, *, shards: int = 4, image: int = 60_000) -> None:
        self.folder = folder
        self.source = published_source(folder / "source", shards=shards, image=image)
        self.recipe = chain_file(folder)
        self.whole = folder / "whole"
        assert self.run(self.whole) == (0, "")

    def words(self, out: Path, workers: int = 1) -> list[str]:
        return ["make", "--source", str(self.source), "--recipe", str(self.recipe), "--out", str(out), "--workers", str(workers)]

    def run(self, out: Path, workers: int = 1, **asked: object) -> tuple[int, str]:
        """Exit status and errors of a run that is harmed as asked; whoever ends it, no process of it is left."""
        status, _, errors = run_command(*self.words(out, workers), env=hook_environment(self.folder, **asked))
        return status, errors

    def start(self, out: Path, workers: int = 1, **asked: object) -> subprocess.Popen[str]:
        return start_command(*self.words(out, workers), env=hook_environment(self.folder, **asked))

    def finish(self, out: Path, workers: int = 1) -> None:
        """The same command again ends well, with the tree of an undisturbed run."""
        assert self.run(out, workers) == (0, "")
        assert_whole(out, self.whole)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


def await_path(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has got so far, or has ended."""
    limit = time.monotonic() + PATIENCE
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < limit, f"{path} does not come"
        time.sleep(0.002)


# SIGKILL


def writing_time(job: Job, out: Path, workers: int, pause: float) -> float:
    """How long an undisturbed run on a slow disk takes from the first file to the last."""
    process = job.start(out, workers, pause=pause)
    await_path(out / PARTIAL / "target.json", process)
    start = time.monotonic()
    status, _, errors = end_command(process)
    assert (status, errors) == (0, "")
    assert_whole(out, job.whole)
    return time.monotonic() - start


def kill_writing(job: Job, out: Path, workers: int, pause: float, wait: float) -> bool:
    """Whether a run was still writing when it was killed, `wait` seconds after it had claimed its target."""
    process = job.start(out, workers, pause=pause)
    await_path(out / PARTIAL / "target.json", process)
    time.sleep(wait)
    os.kill(process.pid, signal.SIGKILL)
    status, _, errors = end_command(process)
    assert status in (0, -signal.SIGKILL), errors
    assert_no_traceback(errors)
    assert_wreck(out, job.whole)
    return status != 0 and not (out / HIDDEN / "manifest.json").exists()


def survive_kills(job: Job, out: Path, workers: int, kills: int, *, pause: float) -> None:
    """Kill at moments that look random, start the same command again each time, and begin anew whenever it has come to its end."""
    span, number, wrecks = writing_time(job, out / "slow", workers, pause), 0, 0
    landed = 0
    while landed < kills:
        assert number < 4 * kills, "most kills come too late"
        wait = span * draw_number(f"moment {number} of {workers}", 1000) / 1000
        target = out / f"killed-{wrecks}"
        if kill_writing(job, target, workers, pause, wait):
            landed += 1
        else:
            job.finish(target, workers)
            wrecks += 1
        number += 1
    job.finish(out / f"killed-{wrecks}", workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_while_writing(workers: int, job: Job, tmp_path: Path) -> None:
    survive_kills(job, tmp_path, workers, 4, pause=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_thirty_moments(workers: int, tmp_path: Path) -> None:
    job = Job(tmp_path / "job", shards=6, image=1_500_000)
    survive_kills(job, tmp_path, workers, 30, pause=0.002)


def cut_points(job: Job, folder: Path, blow: str, *, workers: int, who: str, step: int = 1) -> Iterator[tuple[Path, int, str]]:
    """Runs into new folders that are struck at their k-th call that changes the disk, until one is not: folder, status, errors."""
    for limit in range(1, 1000, step):
        out = folder / f"cut-{limit}"
        status, errors = job.run(out, workers, at=limit, who=who, blow=blow)
        if (status, errors) == (0, ""):
            return
        yield out, status, errors
        shutil.rmtree(out, ignore_errors=True)
    raise AssertionError("it never comes to its end")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "who", "blow", "least"), [(1, "main", "kill", 80), (2, "main", "kill", 25), (2, "worker", "orphan", 30)]
)
def test_killed_at_every_call(workers: int, who: str, blow: str, least: int, job: Job, tmp_path: Path) -> None:
    """Before each fsync, rename, unlink, mkdir and rmdir, and half-way through each copy of bytes."""
    struck = 0
    for out, status, errors in cut_points(job, tmp_path, blow, workers=workers, who=who):
        struck += 1
        assert status == -signal.SIGKILL, errors
        assert_wreck(out, job.whole)
        job.finish(out, workers)
    assert struck >= least


def test_killed_run_leaves_no_worker_behind(job: Job, tmp_path: Path) -> None:
    """A worker that kills its parent and then stalls at a call ends with the parent; `end_command` waits until it is gone."""
    process = job.start(tmp_path / "out", 2, at=9, who="worker", blow="orphan")
    status, _, _ = end_command(process)
    assert status == -signal.SIGKILL
    assert group_processes(process.pid) == []
    assert_wreck(tmp_path / "out", job.whole)
    assert not (tmp_path / "out" / HIDDEN / "manifest.json").exists()
    job.finish(tmp_path / "out", 2)


def test_orphan_would_be_seen() -> None:
    """The check for processes can fail: a child that outlives its parent is found in the group."""
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('started')"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stdout=subprocess.DEVNULL)
    assert process.wait(PATIENCE) == 0
    (orphan,) = group_processes(process.pid)
    os.kill(orphan, signal.SIGKILL)
    assert_gone(process.pid)


def test_worker_without_a_parent_is_told_from_a_mistake() -> None:
    """The check for tracebacks can fail: on any line that is not multiprocessing's own, and on a worker that had started."""
    reading, writing = os.pipe()
    os.close(writing)  # as the parent leaves it that dies before it has said what to do
    script = f"from multiprocessing.spawn import spawn_main; spawn_main(pipe_handle={reading})"
    command = [sys.executable, "-c", script, "--multiprocessing-fork"]
    errors = subprocess.run(command, pass_fds=[reading], capture_output=True, text=True, check=False).stderr
    os.close(reading)
    assert errors.endswith("EOFError: Ran out of input\n")
    assert_no_traceback(errors)
    assert_no_traceback("")
    started = errors.replace("spawn_main", "_bootstrap")
    ours = errors.replace('File "<string>"', f'File "{write.__file__}"')
    for wrong in (started, ours, errors.replace("EOFError", "KeyError"), f"{errors}warning: another line\n"):
        with pytest.raises(AssertionError):
            assert_no_traceback(wrong)


def test_killed_worker_is_told_in_one_line(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, errors = job.run(out, 2, at=12, who="worker", blow="kill")
    assert status == 2
    assert errors == (
        "error: workers: a worker process ended before its task, expected processes with enough memory; "
        "start again with fewer --workers: what is finished stays\n"
    )
    assert_wreck(out, job.whole)
    job.finish(out, 1)


def test_wreck_would_be_seen(job: Job, tmp_path: Path) -> None:
    """The check of a wreck can fail: on a shard that is cut short, on a stray file, on a manifest that came too early."""
    for name, content in {"00001.tar": b"cut", "00001.tar.tmp": b"", "early": b""}.items():
        out = tmp_path / name.replace(".", "-")
        shutil.copytree(job.whole, out)
        assert_wreck(out, job.whole)
        if name == "early":
            (out / "00002.tar").unlink()
        else:
            (out / name).write_bytes(content)
        with pytest.raises(AssertionError):
            assert_wreck(out, job.whole)


# Ctrl-C


@pytest.mark.parametrize(("workers", "who"), [(1, "main"), (2, "main"), (2, "worker")])
def test_interrupted_while_writing(workers: int, who: str, job: Job, tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it."""
    out = tmp_path / "out"
    assert job.run(out, workers, at=20 if workers == 1 else 5, who=who, blow="interrupt") == (130, ONE_LINE)
    assert_wreck(out, job.whole)
    assert not (out / HIDDEN / "manifest.json").exists()
    job.finish(out, workers)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "who"), [(1, "main"), (2, "main"), (2, "worker")])
def test_interrupted_at_every_call(workers: int, who: str, job: Job, tmp_path: Path) -> None:
    struck = 0
    for out, status, errors in cut_points(job, tmp_path, "interrupt", workers=workers, who=who, step=2):
        struck += 1
        assert (status, errors) == (130, ONE_LINE)
        assert_wreck(out, job.whole)
        job.finish(out, workers)
    assert struck > 10


def interrupt_start(job: Job, out: Path, wait: float) -> tuple[int, str]:
    """Status and errors of a run of two workers on a slow disk, interrupted `wait` seconds after the first of them has come to be."""
    process = job.start(out, 2, pause=0.1)
    limit = time.monotonic() + PATIENCE
    while len(group_processes(process.pid)) < 3:  # the main process, multiprocessing's tracker of resources, a worker
        assert time.monotonic() < limit
        assert process.poll() is None
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    status, _, errors = end_command(process)
    return status, errors


@pytest.mark.parametrize("wait", [0, 0.5])
def test_interrupted_while_workers_start(wait: float, job: Job, tmp_path: Path) -> None:
    """Whatever each process is at: one line, and nobody works on for the minutes that the rest would take."""
    assert interrupt_start(job, tmp_path / "out", wait) == (130, ONE_LINE)
    assert_wreck(tmp_path / "out", job.whole)
    assert len(list((tmp_path / "out").glob("*.tar"))) < 4
    job.finish(tmp_path / "out", 2)


def test_interrupted_index_and_verify_say_so(job: Job, tmp_path: Path) -> None:
    """Other commands as well; nothing of theirs is left half-done."""
    source = shutil.copytree(job.source, tmp_path / "source", ignore=shutil.ignore_patterns(HIDDEN))
    for words in (["index", str(source), "--workers", "2"], ["verify", str(job.whole), "--workers", "2"]):
        process = start_command(*words)
        while len(group_processes(process.pid)) < 3 and process.poll() is None:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGINT)
        status, _, errors = end_command(process)
        assert (status, errors) == (130, ONE_LINE)
    assert not (source / HIDDEN).exists()


# No room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as found:
        if found is None:
            pytest.skip("neither mount nor unshare --user --mount is allowed here")
        yield found


@pytest.fixture(scope="module")
def small_job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """About half a megabyte in three shards."""
    return Job(tmp_path_factory.mktemp("small"), shards=3, image=17_000)


def run_on_disk(disk: Disk, job: Job, out: Path, workers: int = 1, **asked: object) -> tuple[int, str]:
    command = [*disk.prefix, sys.executable, "-m", "corruptkit", *job.words(out, workers)]
    env = hook_environment(job.folder, **asked)
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE, check=False)
    return done.returncode, done.stderr


def fill_disk(disk: Disk, room: int) -> None:
    """Leave so many bytes of the disk, or a page less."""
    found = os.statvfs(disk.seen)
    (disk.seen / "filler").write_bytes(bytes(max(found.f_bavail * found.f_frsize - room, 0)))


def test_disk_without_room_is_refused_before_writing(disk: Disk, small_job: Job) -> None:
    fill_disk(disk, 300_000)
    out = disk.path / "out"
    status, errors = run_on_disk(disk, small_job, out)
    shards = sum(path.stat().st_size for path in small_job.source.glob("*.tar"))
    do = "free some space, choose another --out, or use --format overlay"
    line = rf"error: (\S+): ([\d,]+) bytes are free, expected room for ([\d,]+); {do}\n"
    told = re.fullmatch(line, errors)
    assert status == 2
    assert told is not None, errors
    free, need = (int(told[number].replace(",", "")) for number in (2, 3))
    assert told[1] == str(out)
    assert free <= 300_000 < shards <= need < 1 << 20
    assert list(disk.seen.rglob("*.tar")) == []
    (disk.seen / "filler").unlink()
    assert run_on_disk(disk, small_job, out) == (0, "")
    assert_whole(disk.seen / "out", small_job.whole)


@pytest.mark.parametrize(("workers", "room"), [(1, 100_000), (2, 330_000), (1, 590_000)])
def test_full_disk_is_told_in_one_line_and_resumed(workers: int, room: int, disk: Disk, small_job: Job) -> None:
    """The free space looked enough and was not: ENOSPC itself, then a larger disk."""
    fill_disk(disk, room)
    out = disk.path / "out"
    line = f"error: {out}: no space left on the device; free some space and start the same command again: it resumes\n"
    assert run_on_disk(disk, small_job, out, workers, free=1 << 40) == (2, line)
    assert_wreck(disk.seen / "out", small_job.whole)
    assert not (disk.seen / "out" / HIDDEN / "manifest.json").exists()
    assert list((disk.seen / "out").rglob("*.tmp")) == []
    disk.resize("4m")
    assert run_on_disk(disk, small_job, out, workers) == (0, "")
    assert_whole(disk.seen / "out", small_job.whole)


def fill_levels(job: Job, disk: Disk, out: Path, step: int) -> Iterator[tuple[int, DatasetError | None]]:
    """In this process: the error of a run that has so many bytes of room, from almost none to enough."""
    dataset, recipe = open_dataset(job.source), chain_recipe(job.folder)
    plan = make_plan(recipe, dataset.index())
    for room in range(4096, 1 << 20, step):
        fill_disk(disk, room)
        failure = None
        try:
            write.write_variant(dataset, plan, out)
        except DatasetError as error:
            failure = error
        (disk.seen / "filler").unlink()
        yield room, failure
        if failure is None:
            return
        write.write_variant(dataset, plan, out)
        assert_whole(out, job.whole)
        shutil.rmtree(out)
    raise AssertionError("there is never enough room")


@pytest.mark.parametrize("step", [41_000, pytest.param(4096, marks=pytest.mark.slow)])
def test_disk_may_be_full_at_any_time(step: int, disk: Disk, small_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    if disk.prefix:
        pytest.skip("this process cannot mount, so it cannot write to a small disk by itself")
    usage = shutil.disk_usage
    monkeypatch.setattr(write.shutil, "disk_usage", lambda path: usage(path)._replace(free=1 << 40))
    failures = 0
    for room, failure in fill_levels(small_job, disk, disk.path / "out", step):
        if failure is not None:
            failures += 1
            assert "no space left on the device" in str(failure), f"{room} bytes"
    assert failures > 5
    assert verify(disk.path / "out", source=small_job.source, deep=True).problems == ()
    assert read_variant(disk.path / "out") == read_variant(small_job.whole)
