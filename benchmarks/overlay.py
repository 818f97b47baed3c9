"""How large an overlay is, and how fast it reads beside webdataset reading the plain shards.

    .venv/bin/python benchmarks/overlay.py [--runs N] [--bytes N] [--record]

Sizes: plan.parquet of flips and swaps, on made-up captions (how: benchmarks/samples.py) and on OpenMoji's real ones, which
`corruptkit fetch openmoji` draws. An overlay's share of its source counts images of 30 kB.

Reading: swap 0.05 over shards with 30 kB and 100 kB images, one process, the source in memory. webdataset reads the source as it is,
undecoded: it does less than what is measured against it, since nothing edits its samples.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow.compute as pc
import webdataset as wds
from results import publish
from rounds import Task, describe_times, find_ratio, state_aim, take_turns
from samples import make_rows, make_shards

import corruptkit as ck
from corruptkit.fetching.openmoji import fetch_openmoji
from corruptkit.formats.overlay import write_edits
from corruptkit.index import Index

_ROWS, _CLASSES, _IMAGE = 1_281_167, 1000, 30_000
_IMAGES = (30_000, 100_000)
WDS, SAMPLES, ROWS, CAT = "webdataset, the source", "overlay.to_webdataset()", "overlay.rows()", "cat"


def size_lines(folder: Path) -> list[str]:
    """A table of sizes, and the aims."""
    made, openmoji = make_rows(_ROWS, _CLASSES), _open_openmoji(folder)
    flip, swap, all_swap = ck.Flip(ratio="0.05"), ck.Swap(ratio="0.05"), ck.Swap(ratio="1")
    lines = ["| rows | recipe | edits | bytes an edit | mean caption | share of the source |", "|---|---|---|---|---|---|"]
    aims = []
    for name, index, recipe in [
        ("made-up", made, flip),
        ("made-up", made, swap),
        ("OpenMoji", openmoji, flip),
        ("OpenMoji", openmoji, swap),
        ("OpenMoji", openmoji, all_swap),
    ]:
        edits, size = _measure_plan(index, recipe, folder)
        caption = pc.mean(pc.binary_length(index.column("caption"))).as_py()
        share = size / (len(index) * _IMAGE)
        what = f"{recipe.kind} {recipe.ratio}"
        said = f"{name}, {what}"
        lines.append(f"| {name}, {len(index):,} | {what} | {edits:,} | {size / edits:.1f} | {caption:.1f} bytes | {share:.4%} |")
        aims.append(state_aim(f"Bytes an edit, {said}", size / edits, 20 if recipe.kind == "flip" else round(caption, 2)))
        if recipe.ratio == "0.05":
            aims.append(state_aim(f"Share of the source in hundredths of a percent, {said}", share * 1e4, 2))
    return [*lines, "", *aims, ""]


def _open_openmoji(folder: Path) -> Index:
    fetch_openmoji(folder / "openmoji")
    return ck.open_dataset(folder / "openmoji").index()


def _measure_plan(index: Index, recipe: ck.Flip | ck.Swap, folder: Path) -> tuple[int, int]:
    """Edits, and the bytes of their file."""
    plan, file = ck.make_plan(ck.Recipe(seed=0, chain=[recipe]), index), folder / "plan.parquet"
    with file.open("wb") as out:
        write_edits(plan.edits, out)
    return plan.edits.num_rows, file.stat().st_size


def reading_lines(image_bytes: int, total: int, runs: int, folder: Path) -> list[str]:
    """The table and the aims of one size of images."""
    count = total // image_bytes
    shards = [str(shard) for shard in make_shards(folder / "source", count, image_bytes)]
    source = ck.open_dataset(folder / "source")
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.05")]), source.index())
    ck.write_variant(source, plan, folder / "overlay", "overlay")

    def read_all(samples: Iterable[object]) -> None:
        assert sum(1 for _ in samples) == count

    tasks: dict[str, Task] = {
        WDS: lambda: read_all(wds.WebDataset(shards, shardshuffle=False)),
        SAMPLES: lambda: read_all(ck.open_dataset(folder / "overlay").to_webdataset()),
        ROWS: lambda: read_all(ck.open_dataset(folder / "overlay").rows()),
        CAT: lambda: subprocess.run(["cat", *shards], stdout=subprocess.DEVNULL, check=True),  # noqa: S607
    }
    seconds = take_turns(tasks, runs)
    return [
        f"{count:,} samples with images of {image_bytes // 1000} kB, {runs} rounds, opening the overlay included",
        "",
        *describe_times(seconds, WDS),
        "",
        *(state_aim(f"Samples a second, {name} / {WDS}", find_ratio(seconds, WDS, name), 1, least=True) for name in (SAMPLES, ROWS)),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Weigh overlays, and time reading them.")
    parser.add_argument("--runs", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="bytes of images in the source (default 1e9)")
    parser.add_argument("--record", action="store_true", help="write the results to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    reading: list[str] = []
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        sizes = size_lines(Path(folder))
    for image_bytes in _IMAGES:
        with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
            reading += reading_lines(image_bytes, arguments.bytes, max(arguments.runs, 1), Path(folder))
    command = f"`python benchmarks/overlay.py --runs {arguments.runs} --bytes {arguments.bytes}`"
    for title, body in (("Size of an overlay", sizes), ("Reading an overlay", reading)):
        publish(title, command, body[:-1], record=arguments.record)


if __name__ == "__main__":
    main()
