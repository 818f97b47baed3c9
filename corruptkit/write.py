"""Writing variants: one task a shard of each, every file under a temporary name first, the manifest last.

While a variant is unfinished, `.corruptkit/partial` holds target.json (what is being written) and, for each finished shard,
a record and its originals. Starting again takes up where the records end. Several variants of a source are written shard by shard: all
tasks of one shard come one after another, while the system still holds it in memory.
"""

from __future__ import annotations

import inspect
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, get_args

import numpy as np

from corruptkit.dataset import Dataset
from corruptkit.digest import sha256_hex
from corruptkit.engines.local import Watch, map_shards
from corruptkit.errors import CatalogError, ConflictError, DatasetError, LeftoverWarning, Problem, nearest_word, strip_secrets
from corruptkit.files import explain_disk, local_path, lock_folder, open_atomic, write_atomic
from corruptkit.formats.excluded import NAME as EXCLUDED_NAME
from corruptkit.formats.excluded import write_excluded
from corruptkit.formats.overlay import write_edits
from corruptkit.formats.sidecar import carried_files, check_sidecar
from corruptkit.formats.tar import BLOCK, make_header, pad_block
from corruptkit.manifest import FOLDER, FileRecord, Manifest, SourceRecord, SourceShard, checksum_line, describe_circumstance, utc_now
from corruptkit.plan import Plan
from corruptkit.recipe import drops_labels
from corruptkit.remote import RemotePath, stat_files
from corruptkit.target import PARTIAL, claim_target, drop_failed, refuse_overlap
from corruptkit.tasks import (
    Format,
    ShardDone,
    ShardTask,
    describe_file,
    describe_folder,
    fill_tasks,
    flat_name,
    folder_beside,
    list_tasks,
    output_encoding,
    read_done,
    refuse_changed,
    usual_format,
    write_shard,
)

_PIECE = 1 << 22


@dataclass(frozen=True)
class _Job:
    """A variant that is to be written."""

    plan: Plan
    target: Path
    tasks: list[ShardTask]
    started: str


def write_variant(
    dataset: Dataset,
    plan: Plan,
    out: str | Path,
    format: Format | None = None,
    *,
    workers: int = 1,
    watch: Watch | None = None,
    catalog_digest: str = "",
) -> Manifest:
    """Write the variant that a plan makes of a data set, or finish it, or return at once if it is there; by default as the source lies.

    Raises ConflictError where something else lies at `out`, DatasetError where the source has changed or the disk is full.
    """
    return write_variants(dataset, [(plan, out)], format, workers=workers, watch=watch, catalog_digest=catalog_digest)[0]


def write_variants(
    dataset: Dataset,
    variants: Iterable[tuple[Plan, str | Path]],
    format: Format | None = None,
    *,
    workers: int = 1,
    watch: Watch | None = None,
    catalog_digest: str = "",
) -> list[Manifest]:
    """Write variants of a data set, each with its folder, as `write_variant` does, but read each shard of the source once for all of them.

    Overlays read no shard: each is finished before the next plan is asked for. All other plans are held until the end.
    """
    format = usual_format(dataset) if format is None else format
    if format not in get_args(Format):
        raise CatalogError(Problem("format", f"found '{format}'", do=nearest_word(format, get_args(Format))))
    write = partial(_write_group, dataset, format=format, workers=workers, watch=watch, catalog_digest=catalog_digest)
    groups = ([variant] for variant in variants) if format == "overlay" else iter([list(variants)])
    manifests: list[Manifest] = []
    for number, group in enumerate(groups):
        # What is known to fail fails before a target holds anything; what changes later is seen when it is read.
        _check_source(dataset, sidecars=number == 0)
        manifests += write(group)
    return manifests


def _write_group(
    dataset: Dataset,
    variants: Sequence[tuple[Plan, str | Path]],
    *,
    format: Format,
    workers: int,
    watch: Watch | None,
    catalog_digest: str,
) -> list[Manifest]:
    """Write variants side by side; their folders are held until all are finished."""
    places = [(plan, local_path(out)) for plan, out in variants]
    _refuse_twice([target for _, target in places])
    for plan, target in places:
        _check_plan(dataset, plan)
        refuse_overlap(dataset, target)
    source = _describe_source(dataset)
    with ExitStack() as held:
        claimed = [_claim_folder(held, dataset, plan, target, format, source) for plan, target in places]
        jobs = [found for found in claimed if isinstance(found, _Job)]
        _check_space(jobs)
        done = _write_shards(dataset, jobs, workers, watch)
        written = iter(zip(jobs, done, strict=True))
        finish = partial(_finish_variant, dataset, format=format, source=source, catalog_digest=catalog_digest)
        manifests = [finish(*next(written)) if isinstance(found, _Job) else found for found in claimed]
        for _, target in places:
            shutil.rmtree(target / FOLDER / PARTIAL, ignore_errors=True)
    return manifests


def _claim_folder(held: ExitStack, dataset: Dataset, plan: Plan, target: Path, format: Format, source: SourceRecord) -> Manifest | _Job:
    """Hold a variant's folder; its manifest where it is finished already, else what there is to do."""
    started = utc_now()
    with explain_disk(target):
        made = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        held.enter_context(lock_folder(target))
        held.enter_context(drop_failed(target, made=made))
        finished = claim_target(target, plan, format, source, [stat.mtime_ns for stat in dataset.index().meta.shards])
    if finished is not None:
        return finished
    return _Job(plan, target, list_tasks(dataset, target, format, plan.variant_id, null_label=_declares_null(dataset, plan)), started)


def _write_shards(dataset: Dataset, jobs: Sequence[_Job], workers: int, watch: Watch | None) -> list[list[ShardDone]]:
    """Write the shards of all variants, those of one shard of the source side by side; the records of each variant's."""
    if not jobs:
        return []
    filled = [fill_tasks(dataset, job.plan.composed, job.tasks) for job in jobs]
    found = map_shards(write_shard, chain.from_iterable(zip(*filled, strict=True)), workers)
    done = list(watch(found, sum(len(job.tasks) for job in jobs)) if watch else found)
    return [done[number :: len(jobs)] for number in range(len(jobs))]


def _finish_variant(
    dataset: Dataset, job: _Job, done: Sequence[ShardDone], *, format: Format, source: SourceRecord, catalog_digest: str
) -> Manifest:
    """Write what stands beside the shards, and the manifest."""
    plan, target = job.plan, job.target
    with explain_disk(target):
        files = _finish_files(target, plan, format, done, dataset)
        manifest = Manifest(
            format_version=1,
            variant_id=plan.variant_id,
            identity=plan.identity,
            counts=plan.counts(),
            shards=tuple(part.shard for part in done),
            files=tuple(sorted(files, key=lambda record: record.path)),
            source=source,
            circumstance=describe_circumstance(
                format,
                job.started,
                key_encoding=output_encoding(dataset, format),
                catalog_digest=catalog_digest,
                source_path="" if isinstance(dataset.path, RemotePath) else os.path.relpath(dataset.path.resolve(), target.resolve()),
                source_times=tuple(stat.mtime_ns for stat in dataset.index().meta.shards),
            ),
        )
        _write_manifest(target, manifest)
    _warn_leftovers(target, sum(part.leftovers for part in done))
    return manifest


def _refuse_twice(targets: Sequence[Path]) -> None:
    places = Counter(target.resolve() for target in targets)
    for target in targets:
        if places[target.resolve()] > 1:
            raise ConflictError(Problem(str(target), "two variants are to lie there", "a folder for each", "name another folder"))


def _warn_leftovers(target: Path, count: int) -> None:
    if count:
        found = f"{count} edited rows still tell their old caption, in other columns, in other members or in other fields of a .json"
        warnings.warn(str(Problem(str(target), found, do="let no training read them")), LeftoverWarning, stacklevel=_caller_level())


def _caller_level() -> int:
    """The `stacklevel` of the caller's warning with which it names the line that called corruptkit."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "corruptkit":
        frame, level = frame.f_back, level + 1
    return level


def _declares_null(dataset: Dataset, plan: Plan) -> bool:
    return dataset.null_label or drops_labels(plan.identity["recipe"])


def _check_plan(dataset: Dataset, plan: Plan) -> None:
    found = dataset.index().meta.fingerprint
    if found != plan.source["fingerprint"]:
        expected = f"fingerprint {plan.source['fingerprint'][:16]}..."
        raise DatasetError(Problem(str(dataset.path), f"fingerprint {found[:16]}...", expected, "make the plan of this source"))


def _check_source(dataset: Dataset, *, sidecars: bool) -> None:
    if dataset.edits is not None and dataset.manifest is None:
        found, do = "edits that are in memory alone", "write their plan first, or make one recipe of both"
        raise CatalogError(Problem(str(dataset.path), found, "a source that others can open", do))
    stat_files([shard for shard in dataset.shards if isinstance(shard, RemotePath)])
    for shard, stat in zip(dataset.shards, dataset.index().meta.shards, strict=True):
        refuse_changed(shard, stat)
        if sidecars and dataset.layout.format == "webdataset" and not isinstance(shard, RemotePath):
            check_sidecar(shard)


def _describe_source(dataset: Dataset) -> SourceRecord:
    known = {shard.name: shard.sha256 for shard in dataset.manifest.shards} if dataset.manifest else {}
    index = dataset.index()
    sizes = [stat.bytes for stat in index.meta.shards]
    if dataset.layout.format == "imagefolder":  # a folder's own size says nothing
        sizes = np.bincount(index.numbers("shard"), index.numbers("length"), len(sizes)).astype(int).tolist()
    shards = [SourceShard(name=s.name, bytes=size, sha256=known.get(s.name, "")) for s, size in zip(index.meta.shards, sizes, strict=True)]
    columns = dataset.layout.columns
    return SourceRecord(
        name=dataset.name,
        source_url=strip_secrets(str(dataset.path.resolve())),
        variant_id=dataset.manifest.variant_id if dataset.manifest else "",
        label_column=columns.label,
        caption_column=columns.caption,
        image_column=columns.image,
        class_names=dataset.layout.class_names,
        shards=tuple(shards),
    )


def _check_space(jobs: Sequence[_Job]) -> None:
    """Refuse what has no room on its disk, all variants that are to lie there taken together."""
    needs: Counter[int] = Counter()
    for job in jobs:
        need = sum(task.size for task in job.tasks if read_done(task) is None) + job.plan.edits.nbytes
        needs[job.target.stat().st_dev] += need
    for job in jobs:
        need, free = needs[job.target.stat().st_dev], shutil.disk_usage(job.target).free
        if need > free:
            do = "free some space, choose another --out, or use --format overlay"
            raise DatasetError(Problem(str(job.target), f"{free:,} bytes are free", f"room for {need:,}", do))


def _finish_files(target: Path, plan: Plan, format: Format, done: Sequence[ShardDone], dataset: Dataset) -> list[FileRecord]:
    """Write what stands beside the shards: plan, the recipe's content, originals, carried files."""
    hidden, unfinished = target / FOLDER, target / FOLDER / PARTIAL
    names = [f"{FOLDER}/plan.parquet"]
    with open_atomic(hidden / "plan.parquet", unfinished) as file:
        write_edits(plan.edits, file)
    for content in plan.recipe.inputs():
        (hidden / "inputs").mkdir(exist_ok=True)
        names.append(f"{FOLDER}/inputs/{sha256_hex(content)}")
        write_atomic(target / names[-1], content, unfinished)
    index = dataset.index()
    if len(index.excluded):
        names.append(EXCLUDED_NAME)
        with open_atomic(target / EXCLUDED_NAME, unfinished) as file:
            write_excluded(index.excluded, [stat.name for stat in index.meta.shards], file)
    if format == "webdataset" and dataset.layout.format == format:
        names.append(f"{FOLDER}/originals.tar")
        with open_atomic(hidden / "originals.tar", unfinished) as file:
            _join_originals(unfinished, done, file)
    contents = {
        source.name: source.read_bytes()
        for source in carried_files(
            folder_beside(dataset), isinstance(dataset.path, RemotePath) or format not in ("overlay", dataset.layout.format)
        )
    }
    if format == "arrow":
        contents |= describe_folder(dataset, [part.shard.name for part in done], plan.variant_id, null_label=_declares_null(dataset, plan))
    for name, content in contents.items():
        write_atomic(target / name, content, unfinished)
    return [describe_file(target, name) for name in dict.fromkeys([*names, *contents])] + [part.sidecar for part in done if part.sidecar]


def _join_originals(unfinished: Path, done: Sequence[ShardDone], out: BinaryIO) -> None:
    """Originals of members shard by shard as they stood, then those of side-cars as members of their own, then the end marker."""
    for part in done:
        with (unfinished / f"{flat_name(part.shard.name)}.originals").open("rb") as file:
            shutil.copyfileobj(file, out, _PIECE)
    for part in done:
        if part.sidecar is not None and part.sidecar_rewritten:
            content = (unfinished / f"{part.sidecar.path}.original").read_bytes()
            out.write(make_header(part.sidecar.path, len(content)) + pad_block(content))
    out.write(bytes(2 * BLOCK))


def _write_manifest(target: Path, manifest: Manifest) -> None:
    """The checksum first: once the manifest has its name, the variant is complete."""
    hidden, content = target / FOLDER, manifest.encode()
    for name, data in (("manifest.sha256", checksum_line(content)), ("manifest.json", content)):
        write_atomic(hidden / name, data, hidden / PARTIAL)
