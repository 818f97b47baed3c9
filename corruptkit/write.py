"""Writing a variant: one task a shard, every file under a temporary name first, the manifest last.

While a variant is unfinished, `.corruptkit/partial` holds target.json (what is being written) and, for each finished shard,
a record and its originals. Starting again takes up where the records end.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from corruptkit.dataset import Dataset
from corruptkit.digest import file_sha256, sha256_hex
from corruptkit.edits import map_edits
from corruptkit.engines.local import Watch, map_shards
from corruptkit.errors import CatalogError, ConflictError, DatasetError, LeftoverWarning, Problem, nearest_word, strip_secrets
from corruptkit.files import Span, copy_patched, explain_disk, local_path, lock_folder, open_atomic, write_atomic
from corruptkit.formats.conditions import RowEdit, tells_old
from corruptkit.formats.overlay import write_edits
from corruptkit.formats.sidecar import carried_files, check_sidecar, count_leftovers, rewrite_pair, sidecar_of
from corruptkit.formats.tar import BLOCK, make_header, pad_block
from corruptkit.formats.webdataset import Layout, patch_shard
from corruptkit.index import ShardStat, stat_shard
from corruptkit.manifest import (
    FOLDER,
    FileRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    SourceShard,
    checksum_line,
    describe_circumstance,
    utc_now,
)
from corruptkit.plan import Plan
from corruptkit.target import PARTIAL, claim_target

Format = Literal["webdataset", "overlay"]
_PIECE = 1 << 22


class ShardDone(BaseModel):
    """What a shard's task leaves behind: the record by which a later start knows that the shard is finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant_id: str
    source: ShardStat
    shard: ShardRecord
    sidecar: FileRecord | None
    sidecar_rewritten: bool
    leftovers: int  # members and side-car rows that still tell an old caption


@dataclass(frozen=True)
class ShardTask:
    """All that writing one shard needs: the shard, its slice of the plan, and where to."""

    variant_id: str
    source: Path
    stat: ShardStat
    out: Path
    layout: Layout
    first_row: int
    edits: dict[str, RowEdit]
    below: dict[str, RowEdit]


def write_variant(
    dataset: Dataset,
    plan: Plan,
    out: str | Path,
    format: Format = "webdataset",
    *,
    workers: int = 1,
    watch: Watch | None = None,
    catalog_digest: str = "",
) -> Manifest:
    """Write the variant that a plan makes of a data set, or finish it, or return at once if it is there.

    Raises ConflictError where something else lies at `out`, DatasetError where the source has changed or the disk is full.
    """
    target, started = local_path(out), utc_now()
    if format not in get_args(Format):
        raise CatalogError(Problem("format", f"found '{format}'", do=nearest_word(format, get_args(Format))))
    _check_source(dataset, plan)
    _refuse_overlap(dataset, target)
    source = _describe_source(dataset)
    with explain_disk(target):
        target.mkdir(parents=True, exist_ok=True)
        with lock_folder(target):
            finished = claim_target(target, plan, format, source, [stat.mtime_ns for stat in dataset.index().meta.shards])
            if finished is None:
                tasks = _make_tasks(dataset, plan, target) if format == "webdataset" else []
                _check_space(target, tasks, plan)
                found = map_shards(write_shard, tasks, workers)
                done = list(watch(found, len(tasks)) if watch else found)
                files = _finish_files(target, plan, format, done, dataset)
                finished = Manifest(
                    format_version=1,
                    variant_id=plan.variant_id,
                    identity=plan.identity,
                    counts=plan.counts(),
                    shards=tuple(part.shard for part in done),
                    files=tuple(sorted(files, key=lambda record: record.path)),
                    source=source,
                    circumstance=describe_circumstance(
                        format,
                        started,
                        catalog_digest=catalog_digest,
                        source_path=os.path.relpath(dataset.path.resolve(), target.resolve()),
                        source_times=tuple(stat.mtime_ns for stat in dataset.index().meta.shards),
                    ),
                )
                _write_manifest(target, finished)
                _warn_leftovers(target, sum(part.leftovers for part in done))
            shutil.rmtree(target / FOLDER / PARTIAL, ignore_errors=True)
    return finished


def _warn_leftovers(target: Path, count: int) -> None:
    if count:
        found = f"{count} edited rows still tell their old caption, in other fields of a .json or other columns of a side-car"
        warnings.warn(str(Problem(str(target), found, do="let no training read them")), LeftoverWarning, stacklevel=3)


def _check_source(dataset: Dataset, plan: Plan) -> None:
    if dataset.edits is not None and dataset.manifest is None:
        found, do = "edits that are in memory alone", "write their plan first, or make one recipe of both"
        raise CatalogError(Problem(str(dataset.path), found, "a source that others can open", do))
    found = dataset.index().meta.fingerprint
    if found != plan.source["fingerprint"]:
        expected = f"fingerprint {plan.source['fingerprint'][:16]}..."
        raise DatasetError(Problem(str(dataset.path), f"fingerprint {found[:16]}...", expected, "make the plan of this source"))
    # What is known to fail fails before the target holds anything; what changes later is seen when it is read.
    for shard, stat in zip(dataset.shards, dataset.index().meta.shards, strict=True):
        _refuse_changed(shard, *stat_shard(shard)[1:], stat)
        check_sidecar(shard)


def _refuse_overlap(dataset: Dataset, target: Path) -> None:
    place = target.resolve()
    folders = {shard.resolve().parent for shard in dataset.shards} | {dataset.path.resolve()}
    for folder in folders:
        if place == folder or place in folder.parents or (folder in place.parents and dataset.path.is_dir()):
            found, expected = f"the source lies at {folder}", "a folder apart from the source"
            raise ConflictError(Problem(str(target), found, expected, "choose another --out"))


def _describe_source(dataset: Dataset) -> SourceRecord:
    known = {shard.name: shard.sha256 for shard in dataset.manifest.shards} if dataset.manifest else {}
    index = dataset.index()
    shards = tuple(SourceShard(name=s.name, bytes=s.bytes, sha256=known.get(s.name, "")) for s in index.meta.shards)
    columns = dataset.layout.columns
    return SourceRecord(
        name=dataset.name,
        source_url=strip_secrets(str(dataset.path.resolve())),
        variant_id=dataset.manifest.variant_id if dataset.manifest else "",
        label_column=columns.label,
        caption_column=columns.caption,
        shards=shards,
    )


def _make_tasks(dataset: Dataset, plan: Plan, target: Path) -> list[ShardTask]:
    index = dataset.index()
    edits = map_edits(plan.composed, index)
    keys = index.column("key")
    return [
        ShardTask(
            plan.variant_id,
            shard,
            stat,
            target,
            dataset.layout,
            start,
            {keys[row].as_py(): edit for row, edit in edits.of_rows(start, stop)},
            dataset.shard_edits(start, stop),
        )
        for (shard, start, stop), stat in zip(dataset.shard_rows(), index.meta.shards, strict=True)
    ]


def _check_space(target: Path, tasks: Sequence[ShardTask], plan: Plan) -> None:
    need = sum(task.stat.bytes for task in tasks if _read_done(task) is None) + plan.edits.nbytes
    free = shutil.disk_usage(target).free
    if need > free:
        do = "free some space, choose another --out, or use --format overlay"
        raise DatasetError(Problem(str(target), f"{free:,} bytes are free", f"room for {need:,}", do))


def write_shard(task: ShardTask) -> ShardDone:
    """Write a shard, its originals and its side-car, then the record that says so; a shard that has its record is left alone."""
    done = _read_done(task)
    if done is not None:
        return done
    partial, name = task.out / FOLDER / PARTIAL, task.source.name
    seen = _Seen()
    digest = hashlib.sha256()
    with (
        task.source.open("rb", buffering=0) as source,
        open_atomic(partial / f"{name}.originals", partial) as originals,
        open_atomic(task.out / name, partial) as out,
    ):
        copy_patched(source, out, _keep_originals(task, originals, seen), digest)
        found = os.fstat(source.fileno())
        _refuse_changed(task.source, found.st_size, found.st_mtime_ns, task.stat)
        size = out.tell()
    shard = ShardRecord(name=name, rows=task.stat.rows, bytes=size, sha256=digest.hexdigest(), edits=sum(map(len, task.edits.values())))
    sidecar, rewritten = _write_sidecar(task, partial, seen)
    done = ShardDone(
        variant_id=task.variant_id, source=task.stat, shard=shard, sidecar=sidecar, sidecar_rewritten=rewritten, leftovers=seen.leftovers
    )
    write_atomic(partial / f"{name}.json", done.model_dump_json().encode(), partial)
    return done


def _refuse_changed(shard: Path, size: int, mtime_ns: int, known: ShardStat) -> None:
    if (size, mtime_ns) != (known.bytes, known.mtime_ns):
        what, expected = "its size or time has changed", "the shard as it was indexed"
        raise DatasetError(Problem(str(shard), what, expected, "the source has changed: start again"))


@dataclass
class _Seen:
    """What a walk through a shard notes by the way: the stem of each key, and what still tells an old caption."""

    stems: dict[str, str] = field(default_factory=dict)
    leftovers: int = 0


def _keep_originals(task: ShardTask, originals: BinaryIO, seen: _Seen) -> Iterator[Span]:
    """The spans that a shard's edits replace; what stood there goes to the originals."""
    for patch in patch_shard(task.source, task.layout, task.edits, task.below, task.first_row):
        originals.write(patch.original or b"")
        seen.stems[patch.key] = patch.stem.rpartition("/")[2]
        seen.leftovers += tells_old(patch.content, task.edits.get(patch.key, {})) if patch.name.lower().endswith(".json") else 0
        yield patch.start, patch.end, patch.content


def _read_done(task: ShardTask) -> ShardDone | None:
    """The record of a finished shard, unless it is of another variant or source, or its files have gone."""
    try:
        done = ShardDone.model_validate_json((task.out / FOLDER / PARTIAL / f"{task.source.name}.json").read_bytes())
        sizes = [(task.out / task.source.name).stat().st_size == done.shard.bytes]
        sizes += [(task.out / done.sidecar.path).stat().st_size == done.sidecar.bytes] if done.sidecar else []
    except (OSError, ValidationError):
        return None
    return done if all(sizes) and (done.variant_id, done.source) == (task.variant_id, task.stat) else None


def _write_sidecar(task: ShardTask, partial: Path, seen: _Seen) -> tuple[FileRecord | None, bool]:
    """Write the shard's side-car, if it has one, and keep the source's where it is rewritten."""
    source = sidecar_of(task.source)
    if source is None:
        return None, False
    below, own = ({seen.stems[key]: edit for key, edit in edits.items()} for edits in (task.below, task.edits))
    original, content = rewrite_pair(source, below, own, task.layout.columns)
    seen.leftovers += count_leftovers(content, own) if content != original else 0
    write_atomic(partial / f"{source.name}.original", original, partial)
    write_atomic(task.out / source.name, content, partial)
    return describe_file(task.out, source.name), content != original


def describe_file(folder: Path, name: str) -> FileRecord:
    """A file of a variant as its manifest lists it."""
    path = folder / name
    return FileRecord(path=name, bytes=path.stat().st_size, sha256=file_sha256(path))


def _finish_files(target: Path, plan: Plan, format: Format, done: Sequence[ShardDone], dataset: Dataset) -> list[FileRecord]:
    """Write what stands beside the shards: plan, the recipe's content, originals, carried files."""
    hidden, partial = target / FOLDER, target / FOLDER / PARTIAL
    names = [f"{FOLDER}/plan.parquet"]
    with open_atomic(hidden / "plan.parquet", partial) as file:
        write_edits(plan.edits, file)
    for content in plan.recipe.inputs():
        (hidden / "inputs").mkdir(exist_ok=True)
        names.append(f"{FOLDER}/inputs/{sha256_hex(content)}")
        write_atomic(target / names[-1], content, partial)
    if format == "webdataset":
        names.append(f"{FOLDER}/originals.tar")
        with open_atomic(hidden / "originals.tar", partial) as file:
            _join_originals(partial, done, file)
    folder = dataset.shards[0].parent if dataset.shards else dataset.path
    for source in carried_files(folder):
        names.append(source.name)
        write_atomic(target / source.name, source.read_bytes(), partial)
    return [describe_file(target, name) for name in dict.fromkeys(names)] + [part.sidecar for part in done if part.sidecar]


def _join_originals(partial: Path, done: Sequence[ShardDone], out: BinaryIO) -> None:
    """Originals of members shard by shard as they stood, then those of side-cars as members of their own, then the end marker."""
    for part in done:
        with (partial / f"{part.shard.name}.originals").open("rb") as file:
            shutil.copyfileobj(file, out, _PIECE)
    for part in done:
        if part.sidecar is not None and part.sidecar_rewritten:
            content = (partial / f"{part.sidecar.path}.original").read_bytes()
            out.write(make_header(part.sidecar.path, len(content)) + pad_block(content))
    out.write(bytes(2 * BLOCK))


def _write_manifest(target: Path, manifest: Manifest) -> None:
    """The checksum first: once the manifest has its name, the variant is complete."""
    hidden, content = target / FOLDER, manifest.encode()
    for name, data in (("manifest.sha256", checksum_line(content)), ("manifest.json", content)):
        write_atomic(hidden / name, data, hidden / PARTIAL)
