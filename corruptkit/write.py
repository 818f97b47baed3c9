"""Writing a variant: one task a shard, every file under a temporary name first, the manifest last.

While a variant is unfinished, `.corruptkit/partial` holds target.json (what is being written) and, for each finished shard,
a record and its originals. Starting again takes up where the records end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from corruptkit.dataset import Dataset
from corruptkit.digest import file_sha256, sha256_hex
from corruptkit.edits import map_edits
from corruptkit.engines.local import Watch, map_shards
from corruptkit.errors import ConflictError, DatasetError, Problem
from corruptkit.files import Span, copy_patched, explain_disk, lock_folder, open_atomic, write_atomic
from corruptkit.formats.conditions import RowEdit
from corruptkit.formats.overlay import write_edits
from corruptkit.formats.sidecar import carried_files, rewrite_pair, sidecar_of
from corruptkit.formats.tar import BLOCK, make_header, pad_block
from corruptkit.formats.webdataset import Layout, patch_shard
from corruptkit.index import ShardStat
from corruptkit.manifest import (
    FOLDER,
    FileRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    SourceShard,
    checksum_line,
    describe_circumstance,
    differing_fields,
    manifest_path,
    read_manifest,
    strip_secrets,
    utc_now,
)
from corruptkit.plan import Plan

Format = Literal["webdataset", "overlay"]
_PIECE = 1 << 22
_PARTIAL = "partial"


class ShardDone(BaseModel):
    """What a shard's task leaves behind: the record by which a later start knows that the shard is finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant_id: str
    shard: ShardRecord
    sidecar: FileRecord | None
    sidecar_rewritten: bool


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
    target, started = Path(out), utc_now()
    _check_source(dataset, plan)
    _refuse_overlap(dataset, target)
    source = _describe_source(dataset)
    with explain_disk(target):
        target.mkdir(parents=True, exist_ok=True)
        with lock_folder(target):
            finished = _claim_target(target, plan, format, source)
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
                    circumstance=describe_circumstance(format, started, catalog_digest),
                )
                _write_manifest(target, finished)
            shutil.rmtree(target / FOLDER / _PARTIAL, ignore_errors=True)
    return finished


def _check_source(dataset: Dataset, plan: Plan) -> None:
    found = dataset.index().meta.fingerprint
    if found != plan.source["fingerprint"]:
        expected = f"fingerprint {plan.source['fingerprint'][:16]}..."
        raise DatasetError(Problem(str(dataset.path), f"fingerprint {found[:16]}...", expected, "make the plan of this source"))


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


def _claim_target(target: Path, plan: Plan, format: Format, source: SourceRecord) -> Manifest | None:
    """The manifest of the target if it is finished already; else None, and the target is ours to fill."""
    mine = {"variant_id": plan.variant_id, "format": format, "identity": plan.identity, "source": _shape(source)}
    partial = target / FOLDER / _PARTIAL
    if manifest_path(target).exists():
        manifest = read_manifest(target)
        theirs = {
            "variant_id": manifest.variant_id,
            "format": manifest.circumstance.format,
            "identity": manifest.identity,
            "source": _shape(manifest.source),
        }
        _refuse_other(target, mine, theirs)
        return manifest
    if (partial / "target.json").exists():
        _refuse_other(target, mine, _read_json(partial / "target.json"))
    elif others := sorted(entry.name for entry in target.iterdir() if entry.name != FOLDER):
        raise ConflictError(Problem(str(target), f"the folder holds '{others[0]}'", "an empty folder or none", "choose another --out"))
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in partial.glob("*.tmp"):
        leftover.unlink(missing_ok=True)
    write_atomic(partial / "target.json", json.dumps(mine, ensure_ascii=False).encode(), partial)
    return None


def _shape(source: SourceRecord) -> dict[str, Any]:
    return {"shards": [[shard.name, shard.bytes] for shard in source.shards]}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        do = "remove the folder or choose another --out"
        raise ConflictError(Problem(str(path), "not JSON", "what an unfinished run left", do)) from None


def _refuse_other(target: Path, mine: Mapping[str, Any], theirs: Any) -> None:
    differing = differing_fields(mine, theirs if isinstance(theirs, dict) else {})
    shown = [field for field in differing if field[0] not in ("variant_id", "identity.plan_digest", "identity.edits")] or differing
    if differing:
        problems = [
            Problem(str(target), f"it holds another variant: {theirs!r:.60}", f"{mine!r:.60}", "choose another --out", key=field)
            for field, mine, theirs in shown
        ]
        raise ConflictError(*problems)


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
    partial, name = task.out / FOLDER / _PARTIAL, task.source.name
    stems: dict[str, str] = {}
    digest = hashlib.sha256()
    with (
        task.source.open("rb", buffering=0) as source,
        open_atomic(partial / f"{name}.originals", partial) as originals,
        open_atomic(task.out / name, partial) as out,
    ):
        copy_patched(source, out, _keep_originals(task, originals, stems), digest)
        _refuse_changed(task, os.fstat(source.fileno()))
        size = out.tell()
    shard = ShardRecord(name=name, rows=task.stat.rows, bytes=size, sha256=digest.hexdigest(), edits=sum(map(len, task.edits.values())))
    sidecar, rewritten = _write_sidecar(task, partial, stems)
    done = ShardDone(variant_id=task.variant_id, shard=shard, sidecar=sidecar, sidecar_rewritten=rewritten)
    write_atomic(partial / f"{name}.json", done.model_dump_json().encode(), partial)
    return done


def _refuse_changed(task: ShardTask, found: os.stat_result) -> None:
    if (found.st_size, found.st_mtime_ns) != (task.stat.bytes, task.stat.mtime_ns):
        what, expected = "its size or time has changed", "the shard as it was indexed"
        raise DatasetError(Problem(str(task.source), what, expected, "the source has changed: start again"))


def _keep_originals(task: ShardTask, originals: BinaryIO, stems: dict[str, str]) -> Iterator[Span]:
    """The spans that a shard's edits replace; what stood there goes to the originals, and each key's stem is noted for the side-car."""
    for patch in patch_shard(task.source, task.layout, task.edits, task.below, task.first_row):
        originals.write(patch.original or b"")
        stems[patch.key] = patch.stem.rpartition("/")[2]
        yield patch.start, patch.end, patch.content


def _read_done(task: ShardTask) -> ShardDone | None:
    """The record of a finished shard, unless it is of another variant or its files have gone."""
    try:
        done = ShardDone.model_validate_json((task.out / FOLDER / _PARTIAL / f"{task.source.name}.json").read_bytes())
        sizes = [(task.out / task.source.name).stat().st_size == done.shard.bytes]
        sizes += [(task.out / done.sidecar.path).stat().st_size == done.sidecar.bytes] if done.sidecar else []
    except (OSError, ValidationError):
        return None
    return done if all(sizes) and done.variant_id == task.variant_id else None


def _write_sidecar(task: ShardTask, partial: Path, stems: Mapping[str, str]) -> tuple[FileRecord | None, bool]:
    """Write the shard's side-car, if it has one, and keep the source's where it is rewritten."""
    source = sidecar_of(task.source)
    if source is None:
        return None, False
    below, own = ({stems[key]: edit for key, edit in edits.items()} for edits in (task.below, task.edits))
    original, content = rewrite_pair(source, below, own, task.layout.columns)
    write_atomic(partial / f"{source.name}.original", original, partial)
    write_atomic(task.out / source.name, content, partial)
    return describe_file(task.out, source.name), content != original


def describe_file(folder: Path, name: str) -> FileRecord:
    """A file of a variant as its manifest lists it."""
    path = folder / name
    return FileRecord(path=name, bytes=path.stat().st_size, sha256=file_sha256(path))


def _finish_files(target: Path, plan: Plan, format: Format, done: Sequence[ShardDone], dataset: Dataset) -> list[FileRecord]:
    """Write what stands beside the shards: plan, the recipe's content, originals, carried files."""
    hidden, partial = target / FOLDER, target / FOLDER / _PARTIAL
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
        write_atomic(hidden / name, data, hidden / _PARTIAL)
