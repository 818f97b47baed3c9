"""How long a ladder of 6 ratios x 3 seeds takes beside its 18 plans one by one, and what writing its variants reads of the source.

    .venv/bin/python benchmarks/ladder.py [--runs N] [--rows N] [--bytes N] [--record]

Plans: 2,900,000 rows (CC3M's size) with captions and 1,000 classes; flip `prior` and swap. In one process, with the index in memory:
`make_plan` for each recipe, one after another, against `make_plans` for all; each plan's variant_id counts, and in the second pair its
plan.parquet too. Recipes stand ratio by ratio, as the command line lists them. Then, once, in processes of their own: a process a plan
against one for all, from the start of Python to the last file; and the peak of resident memory (VmHWM; pages of the mapped index count
in it) of the largest single plan and of the whole ladder, which holds the largest plan of each seed that still has recipes to come: of one
seed where recipes stand seed by seed, of three where they stand ratio by ratio.

Files: tars with 30 kB images, a swap at each of the 6 ratios, in this process. What is read is counted twice: `asked for` is rchar of
/proc/self/io, `from the disk` is read_bytes, with the source put out of the page cache before each call of `write_variant`, which is what
a source larger than memory comes to, and before the one call of `write_variants`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from results import publish
from rounds import Task, describe_times, find_ratio, state_aim, take_turns
from samples import make_rows, make_shards

import corruptkit as ck
from corruptkit.formats.overlay import write_edits
from corruptkit.index import load_index, save_index

_RATIOS, _SEEDS = ("0.025", "0.05", "0.075", "0.1", "0.15", "0.2"), (0, 1, 2)
_CLASSES, _IMAGE = 1000, 30_000
STAGES: dict[str, Callable[[str], Any]] = {
    "flip prior": lambda ratio: ck.Flip(ratio=ratio, mode="prior"),
    "swap": lambda ratio: ck.Swap(ratio=ratio),
}
SINGLE, LADDER, SINGLE_FILES, LADDER_FILES = "18 plans", "ladder", "18 plans, written", "ladder, written"
SINGLE_RUNS, LADDER_RUN = "18 processes", "1 process for all"
# What a process does that plans: nothing is imported that the plans do not need.
_RUN = """
import json, pathlib, sys
import corruptkit as ck
from corruptkit.formats.overlay import write_edits
from corruptkit.index import load_index
recipes = [ck.Recipe.model_validate(table) for table in json.loads(sys.argv[1])]
names = []
for number, plan in enumerate(ck.make_plans(recipes, load_index(pathlib.Path(sys.argv[2])))):
    names.append(plan.variant_id)
    with open(f"{sys.argv[3]}/{number}.plan.parquet", "wb") as file:
        write_edits(plan.edits, file)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
json.dump({"names": names, "peak": int(status["VmHWM"].split()[0]) * 1024}, sys.stdout)
"""


def list_recipes(kind: str) -> list[ck.Recipe]:
    return [ck.Recipe(seed=seed, chain=[STAGES[kind](ratio)]) for ratio in _RATIOS for seed in _SEEDS]


def plan_singly(recipes: Iterable[ck.Recipe], index: ck.Index) -> Iterable[ck.Plan]:
    return (ck.make_plan(recipe, index) for recipe in recipes)


def use_plans(plans: Iterable[ck.Plan], out: Path | None = None) -> list[str]:
    """Name each plan, and write it to a file of its own; none is held."""
    names = []
    for number, plan in enumerate(plans):
        names.append(plan.variant_id)
        if out is not None:
            with (out / f"{number}.plan.parquet").open("wb") as file:
                write_edits(plan.edits, file)
    return names


def run_apart(kind: str, numbers: Iterable[int], index: Path, out: Path) -> Any:
    """Plans by number in a process of their own: seconds from its start, and its peak of resident memory."""
    recipes = list_recipes(kind)
    asked = json.dumps([recipes[number].model_dump(mode="json") for number in numbers])
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _RUN, asked, str(index), str(out)], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout) | {"seconds": time.perf_counter() - start}


def measure_plans(kind: str, file: Path, runs: int, out: Path) -> list[str]:
    index, recipes = load_index(file), list_recipes(kind)
    assert index is not None
    said: list[list[str]] = []
    tasks: dict[str, Task] = {
        SINGLE: lambda: said.append(use_plans(plan_singly(recipes, index))),
        LADDER: lambda: said.append(use_plans(ck.make_plans(recipes, index))),
        SINGLE_FILES: lambda: said.append(use_plans(plan_singly(recipes, index), out)),
        LADDER_FILES: lambda: said.append(use_plans(ck.make_plans(recipes, index), out)),
    }
    seconds = take_turns(tasks, runs)
    every = range(len(recipes))
    apart = [run_apart(kind, [number], file, out) for number in every]
    together = run_apart(kind, every, file, out)
    by_seed = run_apart(kind, sorted(every, key=lambda number: number % len(_SEEDS)), file, out)
    alone = [name for run in apart for name in run["names"]]
    assert all(names == said[0] for names in (*said, alone, together["names"])), "the same plans each time"
    assert sorted(by_seed["names"]) == sorted(alone), "and in any order"
    processes = {SINGLE_RUNS: [sum(run["seconds"] for run in apart)], LADDER_RUN: [together["seconds"]]}
    return [
        f"### {kind}",
        "",
        *describe_times(seconds, SINGLE),
        "",
        *describe_times(processes, SINGLE_RUNS),
        "",
        state_aim("Ladder / the sum of its single plans", find_ratio(seconds, LADDER, SINGLE), 0.75),
        f"- with each plan's Parquet written: {find_ratio(seconds, LADDER_FILES, SINGLE_FILES):.2f}",
        f"- one process for all / a process a plan, with Parquet: {find_ratio(processes, LADDER_RUN, SINGLE_RUNS):.2f}",
        f"- peak of resident memory: {apart[-1]['peak'] / 1e9:.2f} GB for the largest plan alone",
        f"- peak for all, ratio by ratio / that: {together['peak'] / apart[-1]['peak']:.2f}",
        state_aim("Peak of resident memory for all, seed by seed / that", by_seed["peak"] / apart[-1]["peak"], 1.5),
        "",
    ]


def read_counts() -> tuple[int, int]:
    """Bytes that this process has asked for, and that came from the disk."""
    told = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(told["rchar"]), int(told["read_bytes"])


def forget_pages(shards: Iterable[Path]) -> None:
    """Put files out of the page cache."""
    os.sync()
    for shard in shards:
        descriptor = os.open(shard, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure_files(size: int, runs: int, folder: Path) -> list[str]:
    count = size // _IMAGE
    shards = make_shards(folder / "source", count, _IMAGE, shards=max(count // 1000, 1))
    source = ck.open_dataset(folder / "source")
    plans = list(ck.make_plans([ck.Recipe(seed=0, chain=[ck.Swap(ratio=ratio)]) for ratio in _RATIOS], source.index()))
    variants = [(plan, folder / "out" / ratio) for plan, ratio in zip(plans, _RATIOS, strict=True)]
    read: dict[str, list[tuple[int, int]]] = {"one after another": [], "shard by shard": []}

    def write_apart() -> None:
        for variant in variants:
            forget_pages(shards)
            ck.write_variants(source, [variant])

    def write_together() -> None:
        forget_pages(shards)
        ck.write_variants(source, variants)

    def noted(name: str, write: Callable[[], None]) -> None:
        before = read_counts()
        write()
        asked, fetched = (now - then for now, then in zip(read_counts(), before, strict=True))
        read[name].append((asked, fetched))

    tasks: dict[str, Task] = {
        "one after another": lambda: noted("one after another", write_apart),
        "shard by shard": lambda: noted("shard by shard", write_together),
    }
    seconds = take_turns(tasks, runs, lambda: shutil.rmtree(folder / "out", ignore_errors=True))
    total = sum(shard.stat().st_size for shard in shards)
    lines = [
        f"### Files of {len(plans)} swaps, {len(shards)} shards, {total / 1e9:.2f} GB",
        "",
        *describe_times(seconds, "one after another"),
        "",
    ]
    for name, found in read.items():
        asked, fetched = (statistics.median(counts) / total for counts in zip(*found, strict=True))
        lines.append(f"- {name}: {asked:.2f} times the source's bytes asked for, {fetched:.2f} times from the disk")
    fetched = statistics.median(counts[1] for counts in read["shard by shard"]) / total
    return [*lines, state_aim("Bytes of the source from the disk / its size, shard by shard", fetched, 1.05)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a ladder of plans, and count what writing its variants reads.")
    parser.add_argument("--runs", type=int, default=3, help="timed rounds (default 3)")
    parser.add_argument("--rows", type=int, default=2_900_000, help="rows of the index (default 2,900,000)")
    parser.add_argument("--bytes", type=int, default=500_000_000, help="bytes of images in the source (default 5e8)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    runs = max(arguments.runs, 1)
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as name:
        folder = Path(name)
        save_index(make_rows(arguments.rows, _CLASSES), folder / "index.arrow")
        body = [f"{arguments.rows:,} rows, ratios {', '.join(_RATIOS)}, seeds {', '.join(map(str, _SEEDS))}; {runs} rounds", ""]
        for kind in STAGES:
            body += measure_plans(kind, folder / "index.arrow", runs, folder)
        body += measure_files(arguments.bytes, runs, folder)
    command = f"`python benchmarks/ladder.py --runs {arguments.runs} --rows {arguments.rows} --bytes {arguments.bytes}`"
    publish("A ladder", command, body, record=arguments.record)


if __name__ == "__main__":
    main()
