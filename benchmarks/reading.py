"""How fast Arrow shards are read beside `datasets` reading the same folder.

    .venv/bin/python benchmarks/reading.py [--runs N] [--bytes N] [--record]

One folder, as `write_variant` leaves it for `load_from_disk`, in memory; one process; images as bytes, decoded by nobody. Each way of
reading has its counterpart, which gives the same values: rows one after another, rows in a drawn order, and batches of 100, whose images
are digested (XXH3), since a mapped file is not read before its bytes are.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from results import publish
from rounds import Task, describe_times, find_ratio, state_aim, take_turns
from samples import make_shards
from xxhash import xxh3_64

import corruptkit as ck

_IMAGES = (30_000, 100_000)
_BATCH = 100
_PAIRS = {"rows": "rows, datasets", "drawn rows": "drawn rows, datasets", "batches": "batches, datasets"}


def sum_bytes(rows: Iterable[dict[str, Any]]) -> int:
    """Bytes of images and letters of captions, so that every value has been looked at."""
    return sum(len(row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]) + len(row["caption"]) for row in rows)


def digest_batches(batches: Iterable[pa.RecordBatch | pa.Table]) -> str:
    """XXH3 of all images: a mapped file is read when its bytes are, not when a batch is handed out."""
    digest = xxh3_64()
    for images in chain.from_iterable(map(_image_chunks, batches)):
        width = np.int64 if pa.types.is_large_binary(images.type) else np.int32
        places = np.frombuffer(images.buffers()[1], width)[images.offset : images.offset + len(images) + 1]
        digest.update(images.buffers()[2][places[0] : places[-1]])
    return digest.hexdigest()


def _image_chunks(batch: pa.RecordBatch | pa.Table) -> list[pa.Array]:
    column = batch["image"]
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [chunk.field("bytes") if pa.types.is_struct(chunk.type) else chunk for chunk in chunks]


def open_theirs(folder: Path) -> Any:
    """The folder as `datasets` opens it, its images not decoded."""
    return datasets.load_from_disk(str(folder)).cast_column("image", datasets.Image(decode=False))


def read_drawn(found: Any, order: list[int]) -> Iterator[dict[str, Any]]:
    return (found[number] for number in order)


def result_lines(image_bytes: int, total: int, runs: int, folder: Path) -> list[str]:
    """The table and the aims of one size of images."""
    count, out = total // image_bytes, folder / "arrow"
    make_shards(folder / "source", count, image_bytes)
    source = ck.open_dataset(folder / "source")
    ck.write_variant(source, ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.05")]), source.index()), out, "arrow")
    ours, theirs = ck.open_dataset(out), open_theirs(out)
    order = np.random.default_rng(0).permutation(count).tolist()
    assert list(map(len, (ours, theirs))) == [count, count], "both hold every row"
    assert sum_bytes(ours.rows()) == sum_bytes(theirs), "both give the same values"
    assert digest_batches(ours.batches()) == digest_batches(theirs.with_format("arrow").iter(7))
    assert [ours.row(n)["caption"] for n in order[:99]] == [theirs[n]["caption"] for n in order[:99]]
    tasks: dict[str, Task] = {
        "rows": lambda: sum_bytes(ours.rows()),
        "rows, datasets": lambda: sum_bytes(theirs),
        "drawn rows": lambda: sum_bytes(map(ours.row, order)),
        "drawn rows, datasets": lambda: sum_bytes(read_drawn(theirs, order)),
        "batches": lambda: digest_batches(ours.batches(size=_BATCH)),
        "batches, datasets": lambda: digest_batches(theirs.with_format("arrow").iter(_BATCH)),
    }
    seconds = take_turns(tasks, runs)
    return [
        f"{count:,} rows with images of {image_bytes // 1000} kB, {runs} rounds",
        "",
        *describe_times(seconds, "rows, datasets"),
        "",
        *(
            state_aim(f"{what}: rows a second, ours / theirs", find_ratio(seconds, peer, what), 1, least=True)
            for what, peer in _PAIRS.items()
        ),
        "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time reading Arrow shards beside datasets.")
    parser.add_argument("--runs", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="bytes of images (default 1e9)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    body: list[str] = []
    for image_bytes in _IMAGES:
        with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
            body += result_lines(image_bytes, arguments.bytes, max(arguments.runs, 1), Path(folder))
    publish(
        "Reading Arrow",
        f"`python benchmarks/reading.py --runs {arguments.runs} --bytes {arguments.bytes}`",
        body[:-1],
        record=arguments.record,
    )


if __name__ == "__main__":
    main()
