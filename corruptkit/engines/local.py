"""Tasks on this machine: one after another, or in processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from corruptkit.errors import DatasetError, Problem

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4  # tasks a worker that are handed over before they are done
# Wraps the results of so many tasks, to show how far they are.
Watch = Callable[[Iterator[Any], int], Iterator[Any]]


def map_shards(task: Callable[[Item], Result], items: Iterable[Item], workers: int = 1) -> Iterator[Result]:
    """The task's result for each item, in the order of the items; the first error ends the rest.

    With more than one worker the task runs in new processes, so that it and its items must pickle. Items are taken when their turn is near.
    """
    rest = iter(items)
    first = list(islice(rest, max(workers, 1)))
    if len(first) <= 1 or workers <= 1:
        yield from map(task, chain(first, rest))
        return
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(len(first), mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield from _map_pool(pool, task, chain(first, rest), len(first) * _AHEAD)
    except BrokenProcessPool:
        found, do = "a worker process ended before its task", "start again with fewer --workers: what is finished stays"
        raise DatasetError(Problem("workers", found, "processes with enough memory", do)) from None
    except (KeyboardInterrupt, GeneratorExit):
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()  # what it is at can be done again; waiting for it could take minutes
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _map_pool(pool: ProcessPoolExecutor, task: Callable[[Item], Result], items: Iterator[Item], ahead: int) -> Iterator[Result]:
    """The results in order, with `ahead` tasks handed over that are not done yet: the first of them holds nobody up."""
    pending: deque[Future[Result]] = deque()
    while True:
        left = [future for future in pending if not future.done()]
        for item in islice(items, ahead - len(left)):
            pending.append(_submit_task(pool, task, item))
            left.append(pending[-1])
        if not pending:
            return
        if pending[0].done():
            yield pending.popleft().result()
        else:
            wait(left, return_when=FIRST_COMPLETED)


def _submit_task(pool: ProcessPoolExecutor, task: Callable[[Item], Result], item: Item) -> Future[Result]:
    """Hand over a task. A Ctrl-C while a process starts comes after that: half a start would end in its traceback."""
    noted: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: noted.append(number)) if in_main else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the new processes inherit
    try:
        future = pool.submit(task, item)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_main:
            signal.signal(signal.SIGINT, handler)
    if noted:
        raise KeyboardInterrupt
    return future


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it: a worker of a killed run would go on writing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow_parent, args=(parent.join,), daemon=True).start()


def _follow_parent(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)
