"""Tasks on this machine: one after another, or in processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from corruptkit.errors import DatasetError, Problem

Item = TypeVar("Item")
Result = TypeVar("Result")
# Wraps the results of so many tasks, to show how far they are.
Watch = Callable[[Iterator[Any], int], Iterator[Any]]


def map_shards(task: Callable[[Item], Result], items: Iterable[Item], workers: int = 1) -> Iterator[Result]:
    """The task's result for each item, in the order of the items; the first error ends the rest.

    With more than one worker the task runs in new processes, so that it and its items must pickle.
    """
    work = list(items)
    workers = min(workers, len(work))
    if workers <= 1:
        yield from map(task, work)
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        pending = _submit_tasks(pool, task, work)
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        found, do = "a worker process ended before its task", "start again with fewer --workers: what is finished stays"
        raise DatasetError(Problem("workers", found, "processes with enough memory", do)) from None
    except (KeyboardInterrupt, GeneratorExit):
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()  # what it is at can be done again; waiting for it could take minutes
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit_tasks(pool: ProcessPoolExecutor, task: Callable[[Item], Result], work: list[Item]) -> deque[Future[Result]]:
    """Hand over all tasks. A Ctrl-C while the processes start comes after that: half a start would end in their tracebacks."""
    noted: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: noted.append(number)) if in_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the new processes inherit
    try:
        pending = deque(pool.submit(task, item) for item in work)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGINT, handler)
    if noted:
        raise KeyboardInterrupt
    return pending


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it: a worker of a killed run would go on writing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow_parent, args=(parent.join,), daemon=True).start()


def _follow_parent(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)
