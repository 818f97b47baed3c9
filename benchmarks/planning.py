"""How long a plan of 12,423,374 rows takes (CC12M's size), from the index's file to the plan's, and in how much memory.

    .venv/bin/python benchmarks/planning.py [--runs N] [--rows N] [--record]

Each run is a process of its own: load_index, make_plan (swap 0.05), write_edits. Its time counts from before the imports. Its peak is VmHWM
of /proc/self/status (ru_maxrss would begin with what the parent had); pages of the mapped index count in it, though the system may
take them back at any time. Two indexes take turns: of keys in ascending order, and of keys mixed within each shard, which have to be
brought into order first (img2dataset packs samples as their downloads end). Between the runs, the bare limits: the sum of the index's
bytes where they are mapped, which is one pass over all that a plan reads and more, and a walk through tar headers, which is what
planning without an index would do at least.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import publish
from rounds import Task, describe_times, find_ratio, state_aim, take_turns
from samples import make_rows, make_shards

from corruptkit.formats.tar import walk_members
from corruptkit.formats.webdataset import open_shard
from corruptkit.index import save_index

_SAMPLES, _IMAGE = 16_000, 30_000  # of the shards whose headers are walked
PLAN, MIXED, PASS, WALK = "plan", "plan, keys mixed in shards", "memory pass", "header walk"
# What a run does; it says how long each step took and what it held after it.
_RUN = """
import time
start = time.perf_counter()
import json, pathlib, sys
import corruptkit as ck
from corruptkit.formats.overlay import write_edits
from corruptkit.index import load_index
steps = {}
def note(step):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    held = {name: int(status[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon", "RssFile")}
    steps[step] = {"seconds": time.perf_counter() - start, **held}
note("import")
index = load_index(pathlib.Path(sys.argv[1]))
note("load_index")
plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.05")]), index)
note("make_plan")
with open(sys.argv[2], "wb") as file:
    write_edits(plan.edits, file)
note("write_edits")
json.dump({"steps": steps, "edits": plan.edits.num_rows, "id": plan.variant_id}, sys.stdout)
"""


def build_index(rows: int, file: Path, mixed: bool) -> None:  # noqa: FBT001 - what a process is given comes by place
    save_index(make_rows(rows, mixed=mixed), file)


def run_plan(index: Path, out: Path) -> Any:
    """One run in a process of its own: what it says."""
    command = [sys.executable, "-c", _RUN, str(index), str(out)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def sum_bytes(file: Path) -> int:
    """One pass over a mapped file."""
    words = np.memmap(file, np.uint64, "r", shape=(file.stat().st_size // 8,))
    return int(words.sum())


def walk_shards(shards: list[Path]) -> int:
    """Every header of the shards, and nothing between them."""
    members = 0
    for shard in shards:
        with open_shard(shard) as (window, size):
            members += sum(1 for _ in walk_members(window.read, size, shard))
    return members


def result_lines(rows: int, runs: int, folder: Path) -> list[str]:
    index, mixed, out = folder / "index.arrow", folder / "mixed.arrow", folder / "plan.parquet"
    for file in (index, mixed):
        builder = multiprocessing.get_context("spawn").Process(target=build_index, args=(rows, file, file == mixed))
        builder.start()
        builder.join()
    shards = make_shards(folder / "source", _SAMPLES, _IMAGE, shards=4)
    said: dict[str, list[Any]] = {PLAN: [], MIXED: []}
    tasks: dict[str, Task] = {
        PLAN: lambda: said[PLAN].append(run_plan(index, out)),
        MIXED: lambda: said[MIXED].append(run_plan(mixed, folder / "mixed.parquet")),
        PASS: lambda: sum_bytes(index),
        WALK: lambda: walk_shards(shards),
    }
    seconds = take_turns(tasks, runs)
    assert all(len({run["id"] for run in runs}) == 1 for runs in said.values()), "every run makes the same plan"
    amounts = {PASS: f"{index.stat().st_size / 1e9:.2f} GB", WALK: f"{_SAMPLES:,} samples"}
    walked = statistics.median(seconds[WALK]) / _SAMPLES * rows
    edits, size = said[PLAN][0]["edits"], out.stat().st_size
    file = f"plan.parquet {size / 1e6:.1f} MB ({size / max(edits, 1):.1f} bytes an edit)"
    lines = [
        f"{rows:,} rows with captions, {edits:,} edits, {file}; {runs} rounds",
        "",
        *describe_times(seconds, PASS, amounts),
        "",
        f"A header walk of {rows:,} such samples would take {walked:.0f} s at that pace.",
        "",
    ]
    for name, found in said.items():
        peak = max(run["steps"]["write_edits"]["VmHWM"] for run in found) / 1e9
        lines += [
            f"{name[0].upper()}{name[1:]}:",
            "",
            *_step_lines(found[1:]),
            "",
            state_aim("Seconds, start of Python included", statistics.median(seconds[name]), 8),
            state_aim("Peak of resident memory in GB, the largest of all runs", peak, 2.5),
            f"- {find_ratio(seconds, name, PASS):.1f} times as long as the memory pass",
            "",
        ]
    return lines[:-1]


def _step_lines(said: list[Any]) -> list[str]:
    """A table of the steps: when each ended, and what was held then (medians)."""
    lines = ["| after | at | of this process alone | mapped from files | peak so far |", "|---|---|---|---|---|"]
    for step in said[0]["steps"]:
        notes = [run["steps"][step] for run in said]
        at, anonymous, mapped, peak = (statistics.median(n[name] for n in notes) for name in ("seconds", "RssAnon", "RssFile", "VmHWM"))
        lines.append(f"| {step} | {at:.2f} s | {anonymous / 1e9:.2f} GB | {mapped / 1e9:.2f} GB | {peak / 1e9:.2f} GB |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a plan of many rows, and weigh it.")
    parser.add_argument("--runs", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--rows", type=int, default=12_423_374, help="rows of the index (default 12,423,374)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        body = result_lines(arguments.rows, max(arguments.runs, 1), Path(folder))
    print(f"({time.perf_counter() - start:.0f} s in all)", file=sys.stderr)
    publish("Planning", f"`python benchmarks/planning.py --runs {arguments.runs} --rows {arguments.rows}`", body, record=arguments.record)


if __name__ == "__main__":
    main()
