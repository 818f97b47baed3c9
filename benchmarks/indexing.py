"""How fast shards are indexed, on one core: members a second, beside readers of the same tars and the bare limit.

    .venv/bin/python benchmarks/indexing.py [--runs N] [--samples N] [--record]

Shards with 30 kB images and three members a sample, in memory (a disk that is read for the first time sets its own pace). All take turns:

- `scan_shard`: all that indexing a shard does: headers checked, samples grouped, keys, labels and captions read, the table made
- `walk`: its walk through the members alone
- `one read a sample`: the bare limit: as many reads of 4 kB, at the same places, and nothing done with them
- `tarfile`: the standard library's list of members, whose headers it checks; it reads no condition
- `webdataset`: its samples, undecoded: it has to read all bytes, which whoever only indexes need not
"""

from __future__ import annotations

import argparse
import os
import statistics
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import webdataset as wds
from results import publish
from rounds import Task, describe_times, find_ratio, state_aim, take_turns
from samples import make_shards

from corruptkit.formats.layout import Scan, Shard
from corruptkit.formats.tar import walk_members
from corruptkit.formats.webdataset import open_shard, scan_shard

_IMAGE, _MEMBERS, _READ = 30_000, 3, 4096
SCAN, WALK, READS, TARFILE, WDS = "scan_shard", "walk", "one read a sample", "tarfile", "webdataset"


def walk_shard(shard: Path) -> int:
    with open_shard(shard) as (window, size):
        return sum(1 for _ in walk_members(window.read, size, shard))


def read_places(shard: Path, places: Sequence[int]) -> None:
    descriptor = os.open(shard, os.O_RDONLY)
    for place in places:
        os.pread(descriptor, _READ, place)
    os.close(descriptor)


def list_members(shard: Path) -> int:
    with tarfile.open(shard) as archive:
        return len(archive.getmembers())


def result_lines(samples: int, runs: int, folder: Path) -> list[str]:
    shards = make_shards(folder / "source", samples, _IMAGE, shards=2)
    scans: list[Scan] = [scan_shard(Shard(shard, folder)) for shard in shards]
    places = [scan.table["offset"].to_pylist() for scan in scans]
    count = samples * _MEMBERS
    assert count == sum(map(walk_shard, shards)) == sum(map(list_members, shards)), "all find the same members"
    tasks: dict[str, Task] = {
        SCAN: lambda: [scan_shard(Shard(shard, folder)) for shard in shards],
        WALK: lambda: [walk_shard(shard) for shard in shards],
        READS: lambda: [read_places(shard, there) for shard, there in zip(shards, places, strict=True)],
        TARFILE: lambda: [list_members(shard) for shard in shards],
        WDS: lambda: sum(1 for _ in wds.WebDataset([str(shard) for shard in shards], shardshuffle=False)),
    }
    seconds = take_turns(tasks, runs)
    rates = {name: f"{count / statistics.median(values):,.0f} members/s" for name, values in seconds.items()}
    return [
        f"{samples:,} samples of {_MEMBERS} members with images of {_IMAGE // 1000} kB, one process; {runs} rounds",
        "",
        *describe_times(seconds, SCAN, rates),
        "",
        state_aim("Thousands of members a second on one core", count / statistics.median(seconds[SCAN]) / 1e3, 300, least=True),
        f"- tarfile takes {find_ratio(seconds, TARFILE, SCAN):.1f} times as long, webdataset {find_ratio(seconds, WDS, SCAN):.1f} times",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time indexing beside tarfile, webdataset and the bare reads.")
    parser.add_argument("--runs", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--samples", type=int, default=40_000, help="samples in the shards (default 40,000)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        body = result_lines(arguments.samples, max(arguments.runs, 1), Path(folder))
    publish(
        "Indexing", f"`python benchmarks/indexing.py --runs {arguments.runs} --samples {arguments.samples}`", body, record=arguments.record
    )


if __name__ == "__main__":
    main()
