"""The engine of this machine: results in order, errors whole, and no process that outlives its reason."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corruptkit.engines.local import map_shards
from corruptkit.errors import CatalogError, ConflictError, CorruptkitError, DatasetError, IntegrityError, Problem
from tests.corruptkit.damage import PATIENCE, assert_gone, group_processes

KINDS: tuple[type[CorruptkitError], ...] = (CatalogError, ConflictError, DatasetError, IntegrityError)
PROBLEMS = (Problem("é.tar", "found\x1b", "expected", "do", "key"), Problem("b", "c"))

# Tasks live at the top, so that a new process finds them.


def wait_and_name(item: tuple[float, str]) -> tuple[str, int]:
    """The later tasks end first."""
    time.sleep(item[0])
    return item[1], os.getpid()


def raise_kind(number: int) -> int:
    if number < len(KINDS):
        raise KINDS[number](*PROBLEMS)
    return number


def raise_other(error: BaseException) -> None:
    raise error


def end_suddenly(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave_mark(place: Path) -> None:
    time.sleep(0.05)
    place.touch()


def leave_mark_or_fail(place: Path) -> None:
    if place.name == "0":
        raise DatasetError(*PROBLEMS)
    leave_mark(place)


def read_disposition(_: int) -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.fixture(autouse=True)
def _no_process_is_left() -> None:
    yield
    assert multiprocessing.active_children() == []


# Results


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    items = [(0.2 if number % workers == 0 else 0.0, f"{number}") for number in range(7)]
    found = list(map_shards(wait_and_name, items, workers))
    assert [name for name, _ in found] == [f"{number}" for number in range(7)]
    processes = {process for _, process in found}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(processes) <= workers


@pytest.mark.parametrize("workers", [0, 1, 2, 9])
def test_no_item_gives_no_result(workers: int) -> None:
    assert list(map_shards(wait_and_name, [], workers)) == []


def test_one_item_needs_no_process() -> None:
    assert list(map_shards(wait_and_name, iter([(0.0, "a")]), 8)) == [("a", os.getpid())]


def test_first_result_does_not_wait_for_the_last(tmp_path: Path) -> None:
    """With one worker nothing is done before it is asked for."""
    results = map_shards(leave_mark, [tmp_path / "a", tmp_path / "b"])
    assert list(tmp_path.iterdir()) == []
    next(results)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_workers_leave_ctrl_c_to_the_parent() -> None:
    assert list(map_shards(read_disposition, [0, 1], 2)) == [True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Errors


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 1) for kind in range(len(KINDS))), (0, 2), (3, 2)])
def test_error_arrives_whole(kind: int, workers: int) -> None:
    """With its class and every field of every problem."""
    with pytest.raises(CorruptkitError) as caught:
        list(map_shards(raise_kind, [kind, 9, 9], workers))
    assert type(caught.value) is KINDS[kind]
    assert caught.value.problems == PROBLEMS
    assert str(caught.value) == "é.tar, key: found\\x1b, expected expected; do\nb: c"


@pytest.mark.parametrize("workers", [1, 2])
def test_first_error_by_order_is_the_one_that_is_told(workers: int) -> None:
    results = map_shards(raise_kind, [9, 8, 2, 1, 3], workers)
    assert [next(results), next(results)] == [9, 8]
    with pytest.raises(DatasetError):
        next(results)


def test_disk_error_keeps_its_number() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        list(map_shards(raise_other, [OSError(28, "No space left on device", "/a/b")] * 2, 2))
    assert (caught.value.errno, caught.value.filename) == (28, "/a/b")


def test_first_error_ends_the_rest(tmp_path: Path) -> None:
    """What has not begun never does: of two hundred tasks of a twentieth of a second each, most are left."""
    places = [tmp_path / f"{number}" for number in range(200)]
    with pytest.raises(DatasetError):
        list(map_shards(leave_mark_or_fail, places, 2))
    done = len(list(tmp_path.iterdir()))
    assert done < 100
    time.sleep(0.2)
    assert len(list(tmp_path.iterdir())) == done


def test_worker_that_is_killed_is_told() -> None:
    with pytest.raises(DatasetError) as caught:
        list(map_shards(end_suddenly, [0, 1, 2], 2))
    assert caught.value.problems[0].file == "workers"
    assert caught.value.problems[0].found == "a worker process ended before its task"


def test_reader_that_stops_ends_the_workers(tmp_path: Path) -> None:
    """A generator that is closed early: its processes end at once, and no further task begins."""
    results = map_shards(leave_mark, [tmp_path / f"{number}" for number in range(200)], 2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []
    assert len(list(tmp_path.iterdir())) < 100


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interruption_ends_the_workers(kind: type[BaseException], tmp_path: Path) -> None:
    results = map_shards(leave_mark, [tmp_path / f"{number}" for number in range(200)], 2)
    next(results)
    with pytest.raises(kind):
        results.throw(kind())
    assert multiprocessing.active_children() == []
    assert len(list(tmp_path.iterdir())) < 200


def test_other_children_are_not_touched(tmp_path: Path) -> None:
    """Only processes that the engine has started end with it."""
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    child.start()
    results = map_shards(leave_mark, [tmp_path / f"{number}" for number in range(20)], 2)
    next(results)
    results.close()
    assert child.is_alive()
    child.terminate()
    child.join()


# Processes of a parent that has gone

PARENT = """
import sys, time
from pathlib import Path
from corruptkit.engines.local import map_shards
from tests.corruptkit.engines.test_local import mark_for_ever

if __name__ == "__main__":
    list(map_shards(mark_for_ever, [Path(sys.argv[1], name) for name in "ab"], 2))
"""


def mark_for_ever(place: Path) -> None:
    """Writes on and on, as a task on a large shard does."""
    for number in range(100_000):
        place.write_text(f"{number}")
        time.sleep(0.005)


def end_parent(folder: Path, end: Callable[[subprocess.Popen[bytes]], None]) -> int:
    """Start two workers that never end, end their parent while both are writing; its exit status, once all are gone."""
    (folder / "parent.py").write_text(PARENT)
    env = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, folder / "parent.py", folder], env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + PATIENCE
    while not ((folder / "a").exists() and (folder / "b").exists()):
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert len(group_processes(process.pid)) >= 3
    end(process)
    status = process.wait(PATIENCE)
    assert_gone(process.pid)
    return status


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    assert end_parent(tmp_path, subprocess.Popen.kill) == -signal.SIGKILL
    left = [(tmp_path / name).read_text() for name in "ab"]
    time.sleep(0.1)
    assert [(tmp_path / name).read_text() for name in "ab"] == left, "somebody writes on"


def test_workers_die_with_a_parent_that_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group; the workers do not heed it, and the parent ends them in the midst of their tasks."""
    assert end_parent(tmp_path, lambda process: os.killpg(process.pid, signal.SIGINT)) == -signal.SIGINT


def test_workers_die_with_a_parent_that_alone_is_interrupted(tmp_path: Path) -> None:
    assert end_parent(tmp_path, lambda process: process.send_signal(signal.SIGINT)) == -signal.SIGINT


def test_workers_die_with_a_parent_that_is_terminated(tmp_path: Path) -> None:
    assert end_parent(tmp_path, subprocess.Popen.terminate) == -signal.SIGTERM
