"""Measuring by turns: every task runs once a round, so that a machine that is busy for a while is busy for all of them.

The order of a round is drawn: what a task leaves behind (pages just freed, a disk still at work) is met by each of the others in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

Task = Callable[[], object]
Seconds = dict[str, list[float]]


def take_turns(tasks: Mapping[str, Task], runs: int, before: Callable[[], object] = lambda: None) -> Seconds:
    """Seconds of each run of each task; `before` runs ahead of each and is not timed. A first round warms the caches and is left out."""
    seconds: Seconds = {name: [] for name in tasks}
    names = list(tasks)
    for number in range(runs + 1):
        for place in np.random.default_rng(number).permutation(len(names)) if number else range(len(names)):
            before()
            start = time.perf_counter()
            tasks[names[place]]()
            if number:
                seconds[names[place]].append(time.perf_counter() - start)
    return seconds


def describe_times(seconds: Seconds, base: str, amounts: Mapping[str, str] | None = None) -> list[str]:
    """A table: median, range, and the ratio to `base`, which is the median of the ratios within a round."""
    lines = [f"| what | median | range | time / {base} |", "|---|---|---|---|"]
    for name, values in seconds.items():
        spread = f"{min(values):.2f} - {max(values):.2f} s"
        shown = f"{name} ({amounts[name]})" if amounts and name in amounts else name
        lines.append(f"| {shown} | {statistics.median(values):.2f} s | {spread} | {find_ratio(seconds, name, base):.2f} |")
    return lines


def find_ratio(seconds: Seconds, name: str, base: str) -> float:
    """How many times as long as `base` a task takes: the median over the rounds."""
    return statistics.median(mine / theirs for mine, theirs in zip(seconds[name], seconds[base], strict=True))


def state_aim(said: str, found: float, limit: float, *, least: bool = False) -> str:
    """A line that says whether a figure is where it should be."""
    met = found >= limit if least else found <= limit
    return f"- {said}: {found:.2f}, aim {'at least' if least else 'at most'} {limit:g}: {'met' if met else 'MISSED'}"
