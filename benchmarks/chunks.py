"""How much of a variant a store of content-defined chunks would have to take in anew, given the source.

    .venv/bin/python benchmarks/chunks.py [--bytes N] [--record]

FastCDC with chunks of 8, 64 and 128 KiB (least, mean, most), each shard cut by itself, stands in for Xet, which chunks that way; it is
not Xet. Swap 0.05 over shards with 60 kB images, written by write_variant, and by webdataset's TarWriter as it comes, which stamps
each member with the time of writing. Nothing is timed: the figures are the same on each machine, but for those times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import webdataset as wds
from fastcdc import fastcdc
from results import publish
from rounds import state_aim
from samples import make_shards
from xxhash import xxh3_128_digest

import corruptkit as ck

_IMAGE = 60_000
_LEAST, _MEAN, _MOST = 8 << 10, 64 << 10, 128 << 10


def cut_file(file: Path) -> list[tuple[bytes, int]]:
    """The digest and length of each chunk."""
    content = memoryview(file.read_bytes())
    chunks = fastcdc(content, min_size=_LEAST, avg_size=_MEAN, max_size=_MOST)
    return [(xxh3_128_digest(content[chunk.offset : chunk.offset + chunk.length]), chunk.length) for chunk in chunks]


def rewrite_default(shards: list[Path], captions: dict[str, str], out: Path) -> list[Path]:
    """The same change through webdataset, as it comes."""
    out.mkdir()
    for shard in shards:
        with wds.TarWriter(str(out / shard.name)) as writer:
            for sample in wds.WebDataset([str(shard)], shardshuffle=False):
                if (caption := captions.get(sample["__key__"])) is not None:
                    sample["txt"] = caption.encode()
                    sample["json"] = json.dumps(json.loads(sample["json"]) | {"caption": caption}).encode()
                writer.write(sample)
    return sorted(out.glob("*.tar"))


def new_share(known: set[bytes], shards: list[Path]) -> float:
    """The share of the bytes that lie in chunks which are not known; equal new chunks count once."""
    chunks = [chunk for shard in shards for chunk in cut_file(shard)]
    fresh = dict(chunk for chunk in chunks if chunk[0] not in known)
    return sum(fresh.values()) / sum(length for _, length in chunks)


def result_lines(total: int, folder: Path) -> list[str]:
    shards = make_shards(folder / "source", total // _IMAGE, _IMAGE)
    source = ck.open_dataset(folder / "source")
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.05")]), source.index())
    ck.write_variant(source, plan, folder / "variant")
    captions = dict(zip(plan.edits["key"].to_pylist(), plan.edits["new"].to_pylist(), strict=True))
    theirs = rewrite_default(shards, captions, folder / "theirs")
    chunks = [chunk for shard in shards for chunk in cut_file(shard)]
    known, mean = {digest for digest, _ in chunks}, sum(length for _, length in chunks) / len(chunks)
    ours = new_share(known, [folder / "variant" / shard.name for shard in shards])
    cut = f"{len(chunks):,} chunks of {mean / 1024:.0f} KiB on average"
    return [
        f"{len(source):,} samples with images of {_IMAGE // 1000} kB, {plan.edits.num_rows:,} captions swapped, {cut}",
        "",
        "| written by | new to the store |",
        "|---|---|",
        f"| write_variant | {ours:.2%} |",
        f"| webdataset's TarWriter as it comes | {new_share(known, theirs):.2%} |",
        "",
        state_aim("Percent new to the store", ours * 100, 8),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what is new to a store of content-defined chunks.")
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="bytes of images in the source (default 1e9)")
    parser.add_argument("--record", action="store_true", help="write the result to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="corruptkit-") as folder:
        body = result_lines(arguments.bytes, Path(folder))
    publish("Chunks new to a store", f"`python benchmarks/chunks.py --bytes {arguments.bytes}`", body, record=arguments.record)


if __name__ == "__main__":
    main()
