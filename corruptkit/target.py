"""The folder that a variant is written to: finished, begun, empty, or somebody else's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corruptkit.dataset import Dataset
from corruptkit.errors import ConflictError, Problem
from corruptkit.files import write_atomic
from corruptkit.manifest import FOLDER, Manifest, SourceRecord, differing_fields, manifest_path, read_manifest
from corruptkit.plan import Plan

PARTIAL = "partial"


def refuse_overlap(dataset: Dataset, target: Path) -> None:
    """Refuse a target that holds the source or, where that is a folder, lies in it: what is written would become a part of it."""
    place = target.resolve()
    folders = {shard.resolve().parent for shard in dataset.shards} | {dataset.path.resolve(), dataset.root.resolve()}
    for folder in folders:
        if place == folder or place in folder.parents or (folder in place.parents and dataset.path.is_dir()):
            found, expected = f"the source lies at {folder}", "a folder apart from the source"
            raise ConflictError(Problem(str(target), found, expected, "choose another --out"))


@contextmanager
def drop_failed(target: Path, *, made: bool) -> Iterator[None]:
    """Empty a folder again that was empty, if the run fails before a shard is finished; with `made`, the folder goes too.

    To be entered while the folder is locked: what lies in it is then nobody else's.
    """
    empty = not any(target.iterdir())
    try:
        yield
    except Exception:  # whatever it is; an interrupted run alone is left to be taken up
        if empty and not any(path.name != "target.json" for path in (target / FOLDER / PARTIAL).glob("*.json")):
            for entry in list(target.iterdir()):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
            if made:
                target.rmdir()
        raise


def claim_target(target: Path, plan: Plan, format: str, source: SourceRecord, times: Sequence[int]) -> Manifest | None:
    """The manifest of the target if it is finished already; else None, and the target is ours to fill."""
    mine = {"variant_id": plan.variant_id, "format": format, "identity": plan.identity, "source": _shape(source)}
    partial = target / FOLDER / PARTIAL
    if manifest_path(target).exists():
        manifest = read_manifest(target)
        theirs = {
            "variant_id": manifest.variant_id,
            "format": manifest.circumstance.format,
            "identity": manifest.identity,
            "source": _shape(manifest.source),
        }
        _refuse_other(target, mine, theirs)
        if manifest.circumstance.source_times != tuple(times):
            found, expected = "its source's shards have other times now", "those it was made of"
            do = "compare with verify --source --deep, or choose another --out"
            raise ConflictError(Problem(str(target), found, expected, do))
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
