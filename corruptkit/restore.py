"""Undoing a variant: its source's own bytes, from the variant alone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from corruptkit.dataset import Dataset
from corruptkit.edits import compose_edits, map_edits, reverse_edits
from corruptkit.errors import CatalogError, ConflictError, IntegrityError, Problem
from corruptkit.files import Span, copy_patched, explain_disk, local_path, lock_folder, open_atomic, write_atomic
from corruptkit.formats import arrow, parquet
from corruptkit.formats.conditions import RowEdit
from corruptkit.formats.layout import Shard
from corruptkit.formats.overlay import read_edits
from corruptkit.formats.sidecar import carried_files, name_edits, rewrite_sidecar, sidecar_of
from corruptkit.formats.tar import Member, Window, walk_members
from corruptkit.formats.webdataset import Patch, open_shard, patch_shard
from corruptkit.manifest import FOLDER, Manifest, read_manifest
from corruptkit.opening import open_source, open_variant
from corruptkit.target import drop_failed, refuse_overlap
from corruptkit.tasks import describe_folder, folder_beside
from corruptkit.verify import check_files

_RESTORING = ".corruptkit-restoring"  # marks a folder as ours until all of it is there


def restore(path: str | Path, out: str | Path, *, source: str | Path | None = None) -> Path:
    """Write a variant's source to an empty folder, and give the folder.

    Shards and side-cars come from the variant and its originals, byte for byte; without originals, the rows are the source's and
    the bytes are not (`keeps_bytes`). An overlay holds no shards, so its source is copied. Raises IntegrityError where a file is
    not what the manifest says. Started again after a cut, it begins anew.
    """
    place, target = local_path(path), local_path(out)
    manifest = read_manifest(place)
    if problems := check_files(place, manifest):
        raise IntegrityError(*problems)
    source_below = None if manifest.shards else open_source(place, manifest, source)
    _refuse_overlap(place, manifest, source_below, target)
    partial = target / _RESTORING
    with explain_disk(target):
        made = not target.exists()
        if target.is_dir() and any(target.iterdir()) and not partial.is_dir():
            raise ConflictError(Problem(str(target), "the folder is not empty", "an empty folder or none", "choose another --out"))
        target.mkdir(parents=True, exist_ok=True)
        with lock_folder(target), drop_failed(target, made=made):
            partial.mkdir(exist_ok=True)
            if source_below is None:
                restored = (_undo_shards if _has_originals(manifest) else _rewrite_shards)(place, target, partial, manifest)
                found, known = restored.index(cache=False).meta.fingerprint, manifest.identity["source"]["fingerprint"]
                if found != known:
                    problem = Problem(str(target), f"restored, fingerprint {found[:16]}...", f"{known[:16]}...", "do not use it")
                    raise IntegrityError(problem)
            else:
                _copy_source(source_below, target, partial)
            shutil.rmtree(partial)
    return target


def _refuse_overlap(place: Path, manifest: Manifest, source: Dataset | None, target: Path) -> None:
    """Refuse a target that is or lies in the variant, or in the source, where that is still to be found."""
    known, above = Path(manifest.source.source_url), target.resolve().parents
    if target.resolve() == place.resolve() or place.resolve() in above:
        raise ConflictError(Problem(str(target), f"the variant lies at {place}", "a folder apart from it", "choose another --out"))
    if known in above and known.is_dir():
        raise ConflictError(Problem(str(target), f"the source lies at {known}", "a folder apart from it", "choose another --out"))
    if source is not None:
        refuse_overlap(source, target)


def keeps_bytes(manifest: Manifest) -> bool:
    """Whether `restore` gives the source byte for byte: from originals, or as a copy of a source that is no overlay itself."""
    source = manifest.source
    is_overlay = bool(source.variant_id) and not any(shard.sha256 for shard in source.shards)
    return _has_originals(manifest) if manifest.shards else not is_overlay


def _has_originals(manifest: Manifest) -> bool:
    return any(record.path == f"{FOLDER}/originals.tar" for record in manifest.files)


def _undo_shards(place: Path, target: Path, partial: Path, manifest: Manifest) -> Dataset:
    """Every shard with its rewritten members put back, in the order in which the originals lie."""
    variant = open_variant(place)
    index = variant.index()
    edits = map_edits(reverse_edits(compose_edits(read_edits(place / FOLDER / "plan.parquet"))), index)
    keys = index.column("key")
    known = {shard.name: shard.sha256 for shard in manifest.source.shards}
    with open_shard(place / FOLDER / "originals.tar") as (window, size):
        originals = walk_members(window.read, size, place / FOLDER / "originals.tar")
        for shard, start, stop in variant.shard_rows():
            by_key = {keys[row].as_py(): edit for row, edit in edits.of_rows(start, stop)}
            patches = patch_shard(shard, by_key)
            found = _write_patched(shard.file, target / shard.name, partial, _put_back(patches, originals, window, shard.file))
            if known.get(shard.name) and found != known[shard.name]:
                raise IntegrityError(
                    Problem(str(shard.file), f"restored, SHA-256 {found[:16]}...", known[shard.name][:16] + "...", "do not use it")
                )
        kept = {member.name: window.read(member.data, member.size) for member in originals}
    for sidecar in filter(None, map(sidecar_of, variant.shards)):
        write_atomic(target / sidecar.name, kept.get(sidecar.name) or sidecar.read_bytes(), partial)
    _copy_carried(place, target, partial)
    return _at(variant, target)


def _at(variant: Dataset, target: Path) -> Dataset:
    shards = tuple(target / shard.relative_to(variant.root) for shard in variant.shards)
    return replace(variant, path=target, root=target, shards=shards, manifest=None)


def _rewrite_shards(place: Path, target: Path, partial: Path, manifest: Manifest) -> Dataset:
    """Shards of which no original is kept, with the old values put back: rows that are the source's, in bytes of their own."""
    variant = open_variant(place)
    index = variant.index()
    edits, keys = map_edits(reverse_edits(compose_edits(read_edits(place / FOLDER / "plan.parquet"))), index), index.column("key")
    for shard, start, stop in variant.shard_rows():
        by_key = {keys[row].as_py(): edit for row, edit in edits.of_rows(start, stop)}
        _write_rewritten(shard, by_key, target, partial)
    _copy_beside(variant, target, partial, manifest.identity["source"]["fingerprint"][:16])
    return _at(variant, target)


def _write_rewritten(shard: Shard, edits: Mapping[str, RowEdit], target: Path, partial: Path) -> None:
    """A shard with edits applied, in its own format; without edits, its own bytes."""
    out = target / shard.name
    out.parent.mkdir(parents=True, exist_ok=True)
    if shard.layout.format == "webdataset" or not edits:
        patches = patch_shard(shard, edits) if edits else ()
        _write_patched(shard.file, out, partial, ((patch.start, patch.end, patch.content) for patch in patches))
        return
    with open_atomic(out, partial) as file:
        (parquet if shard.layout.format == "parquet" else arrow).rewrite_shard(shard, edits, file)


def _copy_beside(source: Dataset, target: Path, partial: Path, mark: str) -> None:
    """What stands beside shards that are no copies."""
    _copy_carried(folder_beside(source), target, partial)
    if source.layout.format == "arrow":
        names = [shard.relative_to(source.root).as_posix() for shard in source.shards]
        for name, content in describe_folder(source, names, mark, null_label=source.null_label).items():
            write_atomic(target / name, content, partial)


def _put_back(patches: Iterable[Patch], originals: Iterator[Member], window: Window, shard: Path) -> Iterator[Span]:
    for patch in patches:
        member = next(originals, None)
        if member is None or member.name != patch.name:
            found = f"the original of '{member.name}'" if member else "no original"
            raise IntegrityError(Problem(str(shard), found, f"that of '{patch.name}'", "do not use it", key=patch.key))
        yield patch.start, patch.end, window.read(member.start, member.end - member.start)


def _copy_source(source: Dataset, target: Path, partial: Path) -> None:
    """The source of an overlay as it lies; where that is an overlay, its shards and side-cars as they read."""
    if source.layout.format == "imagefolder":
        _copy_images(source, target, partial)
    elif source.layout.format == "webdataset":
        _copy_tars(source, target, partial)
    elif source.edits is None:
        _copy_tables(source, target, partial)
    else:
        for shard, start, stop in source.shard_rows():
            _write_rewritten(shard, source.shard_edits(start, stop), target, partial)
        _copy_beside(source, target, partial, source.index().meta.fingerprint[:16])


def _copy_tars(source: Dataset, target: Path, partial: Path) -> None:
    for shard, start, stop in source.shard_rows():
        edits = source.shard_edits(start, stop)
        patches = list(patch_shard(shard, {}, edits))
        _write_patched(shard.file, target / shard.name, partial, ((patch.start, patch.end, patch.content) for patch in patches))
        if (sidecar := sidecar_of(shard.file)) is not None:
            named = name_edits(sidecar, {patch.key: patch.stem for patch in patches}, edits)
            content = rewrite_sidecar(sidecar, named, source.layout.columns) or sidecar.read_bytes()
            write_atomic(target / sidecar.name, content, partial)
    for folder in {shard.parent for shard in source.shards}:
        _copy_carried(folder, target, partial)


def _copy_tables(source: Dataset, target: Path, partial: Path) -> None:
    """Shards of Parquet or Arrow and what belongs to them, byte for byte."""
    beside = [source.root / name for name in ("state.json", "dataset_info.json")] if source.layout.format == "arrow" else []
    for file in [*source.shards, *(path for path in beside if path.is_file())]:
        out = target / file.relative_to(source.root)
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_patched(file, out, partial, ())
    _copy_carried(folder_beside(source), target, partial)


def _copy_images(source: Dataset, target: Path, partial: Path) -> None:
    """A folder of images and its metadata files, byte for byte."""
    if source.edits is not None:
        found, do = "an overlay over an overlay of a folder of images", "materialise the lower one with make --from"
        raise CatalogError(Problem(str(source.path), found, do=do))
    for file in sorted(path for path in source.root.rglob("*") if path.is_file() and FOLDER not in path.parts):
        out = target / file.relative_to(source.root)
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_patched(file, out, partial, ())


def _copy_carried(folder: Path, target: Path, partial: Path) -> None:
    for file in carried_files(folder):
        _write_patched(file, target / file.name, partial, ())


def _write_patched(source: Path, target: Path, partial: Path, spans: Iterable[Span]) -> str:
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) as file, open_atomic(target, partial) as out:
        copy_patched(file, out, spans, digest)
    return digest.hexdigest()
