"""The folder that a source is fetched into: ours alone while it is filled, whole only with its record, of bytes that never vary."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from corruptkit.errors import ConflictError, Problem
from corruptkit.files import explain_disk, lock_folder, write_atomic

SHARD_ROWS = 1000

_HIDDEN = ".corruptkit"
_RECORD = f"{_HIDDEN}/fetched.json"  # its presence means complete
_FETCHING = f"{_HIDDEN}/fetching"  # while it is there, the folder is ours to fill
_ARCHIVES = "archives"  # below it: what was downloaded, kept for the next try


class Sample(NamedTuple):
    """A row to write. A clean condition stands in .txt, .cls and the JSON's `caption` and `label` only."""

    key: str
    image: bytes  # a PNG
    label: int
    caption: str | None = None
    facts: Mapping[str, Any] | None = None  # what the JSON says besides; no JSON without
    open_key: bool = False  # the key tells the caption: the JSON does not repeat it, so that nothing tells it after an edit


class Fetched(NamedTuple):
    """What the record says of a source beside its shards."""

    source: str
    size: int | None  # pixels, where images are rendered
    left_out: Mapping[str, int]
    versions: Mapping[str, str]
    warnings: Sequence[str] = ()


def is_complete(out: Path, source: str, size: int | None = None) -> bool:
    """Whether `out` holds this source, whole; one of another kind or size is a conflict."""
    try:
        record = json.loads((out / _RECORD).read_bytes())
        found = _say_source(record["source"], record.get("size"))
        sizes = {out / shard["name"]: shard["bytes"] for shard in record["shards"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    wanted = _say_source(source, size)
    if found != wanted:
        raise ConflictError(Problem(str(out), f"it holds {found}", wanted, "choose another folder"))
    return all(path.is_file() and path.stat().st_size == length for path, length in sizes.items())


@contextmanager
def hold_folder(out: Path, source: str) -> Iterator[Path]:
    """The folder for files that are not whole yet, below `out`, which is made, locked and cleared of an interrupted fetch.

    One that holds anything else is refused with ConflictError. Where nothing came of it, nothing stays.
    """
    new = not out.exists()
    with explain_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        with lock_folder(out):
            _claim_folder(out, source)
            try:
                yield out / _FETCHING
                shutil.rmtree(out / _FETCHING)
            finally:
                if new and not (out / _RECORD).exists():
                    _drop_empty(out)


def archive_folder(fetching: Path) -> Path:
    """Where downloads lie, which an interrupted fetch leaves for the next one."""
    (fetching / _ARCHIVES).mkdir(exist_ok=True)
    return fetching / _ARCHIVES


def write_license(out: Path, text: str) -> None:
    write_atomic(out / "LICENSE.txt", text.encode(), out / _FETCHING)


def write_shards(out: Path, stem: str, samples: Iterable[Sample], bar: tqdm[Any]) -> list[dict[str, Any]]:
    """Write samples as `STEM-0000.tar` and so on, in the order they come in, and say what each shard is."""
    shards: list[dict[str, Any]] = []
    rows = _count_rows(samples, bar)
    for number in count():
        part = list(islice(rows, SHARD_ROWS))
        if not part:
            break
        shard = _pack_shard(part)
        name = f"{stem}-{number:04d}.tar"
        write_atomic(out / name, shard, out / _FETCHING)
        shards.append({"name": name, "rows": len(part), "bytes": len(shard), "sha256": hashlib.sha256(shard).hexdigest()})
    return shards


def write_record(out: Path, fetched: Fetched, shards: Sequence[Mapping[str, Any]]) -> None:
    """Write the record, after everything else: its presence means complete."""
    size = {} if fetched.size is None else {"size": fetched.size}
    rows = sum(shard["rows"] for shard in shards)
    said = {"left_out": dict(fetched.left_out), "versions": dict(fetched.versions), "warnings": list(fetched.warnings)}
    record = {"source": fetched.source, **size, "rows": rows, **said, "shards": list(shards)}
    write_atomic(out / _RECORD, (json.dumps(record, indent=2) + "\n").encode(), out / _FETCHING)


def show_progress(source: str, total: int, unit: str, *, progress: bool) -> tqdm[Any]:
    return tqdm(total=total, desc=source, unit=f" {unit}", disable=None if progress else True)


def _count_rows(rows: Iterable[Sample], bar: tqdm[Any]) -> Iterator[Sample]:
    for row in rows:
        yield row
        bar.update()


def _list_members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield f"{sample.key}.png", sample.image
    if sample.caption is not None:
        yield f"{sample.key}.txt", sample.caption.encode()
    yield f"{sample.key}.cls", str(sample.label).encode()
    if sample.facts is not None:
        key = {} if sample.open_key else {"key": sample.key}
        record = {**key, "caption": sample.caption, "label": sample.label, **sample.facts}
        yield f"{sample.key}.json", json.dumps(record, ensure_ascii=False).encode()


def _pack_shard(samples: Iterable[Sample]) -> bytes:
    """A tar whose headers say nothing of when, where and by whom: TarInfo's defaults are mode 0644 and zeros."""
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for name, data in _list_members(sample):
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return shard.getvalue()


def _say_source(source: str, size: int | None) -> str:
    return source if size is None else f"{source} at {size} px"


def _claim_folder(out: Path, source: str) -> None:
    """Make the folder ours, without what an interrupted or damaged fetch left in it; whole downloads stay."""
    foreign = sorted(path.name for path in out.iterdir())
    if foreign and not (out / _FETCHING).is_dir() and not (out / _RECORD).is_file():
        found = f"it holds '{foreign[0]}'"
        raise ConflictError(Problem(str(out), found, f"an empty folder or an interrupted fetch of {source}", "choose another folder"))
    (out / _FETCHING).mkdir(parents=True, exist_ok=True)
    kept = out / _FETCHING / _ARCHIVES
    for path in [out / _RECORD, *out.glob(f"{source}-*.tar"), *(out / _FETCHING).iterdir()]:
        if path != kept:
            path.unlink(missing_ok=True)


def _drop_empty(out: Path) -> None:
    """Take away a folder that we made and that holds nothing; where it holds a file, the mark that it is ours stays beside it."""
    if any(path.is_file() for path in out.rglob("*")):
        return
    with suppress(OSError):
        for folder in (out / _FETCHING / _ARCHIVES, out / _FETCHING, out / _HIDDEN, out):
            if folder.exists():
                folder.rmdir()
