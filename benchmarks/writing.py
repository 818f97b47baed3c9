"""How long writing a variant takes beside `cp` of the same shards, and beside webdataset's own reading and writing.

    .venv/bin/python benchmarks/writing.py [--runs N] [--bytes N] [--record]

Shards with 30 kB and 100 kB images, swap 0.05. All take turns in one run, with the source in memory:

- `cp --reflink=never` of all shards, then fsync of each: the limit of whoever moves every byte, in one process
- `write_variant`: everything to the synced manifest, SHA-256 of each shard included: in this process, which copies in one thread and
  digests in another (what the command line does on 2 cores), or in 2 worker processes, their start included
- `copy, no SHA-256`: the function that copies a shard with its edits, and fsync, in this process, without a digest
- `a worker's start`: a Python that imports what a worker needs; two of them start side by side, however much there is to write
- webdataset: `WebDataset` undecoded, the same captions changed in .txt and .json, `TarWriter(mtime=0)`, fsync
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from results import publish
from rounds import Task, describe_times, find_ratio, state_aim, take_turns

import corruptkit as ck
from corruptkit.edits import map_edits
from corruptkit.files import copy_patched, open_atomic
from corruptkit.formats.webdataset import patch_shard
from corruptkit.tasks import find_spots

_WORKERS = 2
_IMAGES = (30_000, 100_000)
CP, WRITE, ONE, COPY, WDS = "cp + fsync", "write_variant, 2 workers", "write_variant, 1 worker", "copy, no SHA-256", "webdataset"
START = "a worker's start"


def copy_shards(shards: list[Path], out: Path) -> None:
    """cp and fsync."""
    out.mkdir()
    subprocess.run(["cp", "--reflink=never", *map(str, shards), str(out)], check=True)  # noqa: S607 - the cp of the system
    _sync_files(out)


def _sync_files(out: Path) -> None:
    """Every task ends when its bytes are on the disk."""
    for file in out.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def copy_edited(source: ck.Dataset, plan: ck.Plan, out: Path) -> None:
    """What writing a shard does, less its digest and its records."""
    out.mkdir()
    edits, keys = map_edits(plan.composed, source.index()), source.index().column("key")
    for shard, start, stop in source.shard_rows():
        own = {keys[row].as_py(): edit for row, edit in edits.of_rows(start, stop)}
        spots = [spot for _, spot in find_spots(source.index(), shard, start, stop, own)]
        with shard.file.open("rb", buffering=0) as file, open_atomic(out / shard.name, out) as copy:
            patches = patch_shard(shard, own, spots=spots)
            copy_patched(file, copy, ((patch.start, patch.end, patch.content) for patch in patches))


def fill_memory(size: int) -> None:
    """Write to as many bytes of memory, in another process, which gives them back to the system when it ends."""
    subprocess.run([sys.executable, "-c", f"bytearray(b'1') * {size * 5 // 4}"], check=True)


def rewrite_shards(shards: list[Path], captions: dict[str, str], out: Path) -> None:
    """The same change through webdataset; its writer's encoder is off, which spares it looking at each member."""
    import webdataset as wds  # brings torch: not at the top, which every worker process of ours runs through

    out.mkdir()
    for shard in shards:
        with wds.TarWriter(str(out / shard.name), mtime=0, encoder=False) as writer:
            for sample in wds.WebDataset([str(shard)], shardshuffle=False):
                caption = captions.get(sample["__key__"])
                if caption is not None:
                    sample["txt"] = caption.encode()
                    sample["json"] = json.dumps(json.loads(sample["json"]) | {"caption": caption}).encode()
                writer.write(sample)
    _sync_files(out)


def measure_size(image_bytes: int, total: int, runs: int, folder: Path) -> list[str]:
    """The table and the aims of one size of images."""
    from samples import make_shards

    count, out = total // image_bytes, folder / "out"
    shards = make_shards(folder / "source", count, image_bytes)
    source = ck.open_dataset(folder / "source")
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.05")]), source.index(workers=_WORKERS))
    size = sum(shard.stat().st_size for shard in shards)
    captions = dict(zip(plan.edits["key"].to_pylist(), plan.edits["new"].to_pylist(), strict=True))
    tasks: dict[str, Task] = {
        CP: lambda: copy_shards(shards, out),
        WRITE: lambda: ck.write_variant(source, plan, out, workers=_WORKERS),
        ONE: lambda: ck.write_variant(source, plan, out),
        START: lambda: subprocess.run([sys.executable, "-c", "import corruptkit.write"], check=True),
        COPY: lambda: copy_edited(source, plan, out),
        WDS: lambda: rewrite_shards(shards, captions, out),
    }

    def clear_disk() -> None:
        shutil.rmtree(out, ignore_errors=True)
        os.sync()  # what the task before left to write is not this one's
        # A virtual machine that gave free memory back to its host waits longer for pages than a copy takes: all begin with some at hand.
        fill_memory(size)

    seconds = take_turns(tasks, runs, clear_disk)
    clear_disk()
    _check_same(source, plan, captions, folder)
    return [
        f"{count:,} samples with images of {image_bytes // 1000} kB in {len(shards)} shards, {size / 1e9:.2f} GB; {runs} rounds",
        "",
        *describe_times(seconds, CP),
        "",
        *(state_aim(f"{way} / cp", find_ratio(seconds, way, CP), limit) for way, limit in ((ONE, 1.5), (WRITE, 1.5), (COPY, 1.0))),
        *(state_aim(f"webdataset / {way}", find_ratio(seconds, WDS, way), least, least=True) for way, least in ((ONE, 4), (COPY, 7))),
        f"- webdataset / {WRITE}: {find_ratio(seconds, WDS, WRITE):.2f} (for two cores the command line starts one process)",
        f"- webdataset / cp, which whoever writes at the pace of cp cannot exceed: {find_ratio(seconds, WDS, CP):.2f}",
        "",
    ]


def _check_same(source: ck.Dataset, plan: ck.Plan, captions: dict[str, str], folder: Path) -> None:
    """Both ways of ours give the same bytes, and webdataset's gives the same samples, in the first shard."""
    import webdataset as wds

    path = source.shards[0]
    ck.write_variant(source, plan, folder / "a", workers=_WORKERS)
    copy_edited(source, plan, folder / "b")
    rewrite_shards([path], captions, folder / "c")
    assert (folder / "a" / path.name).read_bytes() == (folder / "b" / path.name).read_bytes()
    ours, theirs = (wds.WebDataset([str(folder / way / path.name)], shardshuffle=False) for way in "ac")
    for one, other in zip(ours, theirs, strict=True):
        assert [one[name] for name in ("__key__", "jpg", "txt")] == [other[name] for name in ("__key__", "jpg", "txt")]
        assert json.loads(one["json"]) == json.loads(other["json"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time writing a variant beside cp and webdataset.")
    parser.add_argument("--runs", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--bytes", type=int, default=2_000_000_000, help="bytes of images in the source (default 2e9)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    body: list[str] = []
    for image_bytes in _IMAGES:
        with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
            body += measure_size(image_bytes, arguments.bytes, max(arguments.runs, 1), Path(folder))
    command = f"`python benchmarks/writing.py --runs {arguments.runs} --bytes {arguments.bytes}`"
    publish("Writing a variant", command, body[:-1], record=arguments.record)


if __name__ == "__main__":
    main()
