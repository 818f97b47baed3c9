"""What the benchmarks measure on: captions, and shards of incompressible images. Made anew each time, the same each time.

A caption is 4 to 24 words (15 bytes to 180, about 85 on average), drawn one by one by Zipf's law from the words of emoji names and of
Python's own documentation (some 4,000). No phrase repeats except by chance, so that a compressor finds less in them than in captions that
people wrote. An image is random bytes behind the first bytes of a JPEG, 50 % to 150 % of the mean size.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import emoji
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import webdataset as wds

from corruptkit.index import Index, ShardStat, make_index

_JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000")
_LEAST, _MOST = 4, 24
_CHUNK = 1 << 19  # captions at once: every word is a text of its own while they are joined
_ROWS, _LENGTH = 10_000, 60 << 10  # rows of a shard, bytes of a row
Sample = dict[str, Any]


def list_words() -> list[str]:
    """The words of the captions, the most frequent first."""
    names = {entry["en"].strip(":").replace("_", " ") for entry in emoji.EMOJI_DATA.values()}
    counts = Counter(word for name in names for word in re.findall(r"[a-z]+", name.lower()))
    counts.update(word for text in topics.values() for word in re.findall(r"(?<![\w.'`])[a-z]+(?=[ ,.])", text))
    return sorted(counts, key=lambda word: (-counts[word], word))


def make_captions(count: int, seed: int = 0) -> pa.ChunkedArray:
    """`count` captions as a column of text."""
    generator, words = np.random.default_rng(seed), pa.array(list_words())
    upto = np.cumsum(1 / np.arange(1, len(words) + 1))
    chunks = []
    for start in range(0, count, _CHUNK):
        lengths = generator.integers(_LEAST, _MOST + 1, min(_CHUNK, count - start))
        drawn = np.searchsorted(upto, generator.random(lengths.sum()) * upto[-1], side="right")
        cuts = np.concatenate([[0], np.cumsum(lengths)])
        lists = pa.ListArray.from_arrays(pa.array(cuts, pa.int32()), words.take(pa.array(np.minimum(drawn, len(words) - 1))))
        chunks.append(pc.binary_join(lists, " ").cast(pa.large_string()))
    return pa.chunked_array(chunks, pa.large_string())


def make_samples(count: int, image_bytes: int, seed: int = 0) -> Iterator[Sample]:
    """Samples as img2dataset packs them: .jpg, .txt and a .json that tells the caption again."""
    generator = np.random.default_rng(seed)
    for number, caption in enumerate(make_captions(count, seed).to_pylist()):
        size = int(generator.integers(image_bytes // 2, image_bytes * 3 // 2))
        told = {"caption": caption, "url": f"https://example.org/{number}.jpg", "key": f"{number:09d}", "status": "success", "width": 512}
        image = _JPEG + generator.bytes(size - len(_JPEG))
        yield {"__key__": f"{number:09d}", "jpg": image, "txt": caption.encode(), "json": json.dumps(told).encode()}


def make_shards(folder: Path, count: int, image_bytes: int, shards: int = 8) -> list[Path]:
    """Write `count` samples to shards; their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}.tar" for number in range(shards)]
    samples = make_samples(count, image_bytes)
    for number, path in enumerate(paths):
        with wds.TarWriter(str(path), mtime=0) as writer:
            for _ in range(number * count // shards, (number + 1) * count // shards):
                writer.write(next(samples))
    return paths


def make_rows(count: int, classes: int | None = None, *, mixed: bool = False) -> Index:
    """The index of `count` rows with keys of 9 digits, captions and perhaps labels, as shards of 10,000 rows would have.

    Keys ascend, or are `mixed` within each shard, as img2dataset leaves them: in the order in which its downloads end.
    """
    numbers = np.arange(count)
    if mixed:
        numbers = np.lexsort((np.random.default_rng(2).random(count), numbers // _ROWS))
    keys = pc.utf8_lpad(pa.array(numbers).cast(pa.large_string()), 9, "0")
    labels = np.random.default_rng(1).integers(0, classes, count) if classes else np.full(count, -1)
    captions = make_captions(count).combine_chunks()
    tables, stats = [], []
    for number, start in enumerate(range(0, count, _ROWS)):
        size = min(_ROWS, count - start)
        place = {"position": np.arange(size), "offset": np.arange(size) * _LENGTH, "length": np.full(size, _LENGTH)}
        part = slice(start, start + size)
        tables.append(pa.table({"key": keys[part], "label": labels[part], "caption": captions[part], **place}))
        stats.append(ShardStat(name=f"{number:05d}.tar", bytes=size * _LENGTH, mtime_ns=0, rows=size, digest=""))
    return make_index(tables, stats, split="train", key_rule="sample", classes=classes, null_label=False, where="memory")
