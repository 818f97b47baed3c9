"""Checking a variant: its bytes against its manifest, its conditions against its plan, its plan against its recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.compare import compare_variant
from corruptkit.digest import file_sha256
from corruptkit.edits import compose_edits, digest_edits, edit_index, map_edits, reverse_edits
from corruptkit.engines.local import Watch, map_shards
from corruptkit.errors import CatalogError, CorruptkitError, IntegrityError, Problem
from corruptkit.files import local_path
from corruptkit.formats.overlay import read_edits
from corruptkit.index import Index
from corruptkit.manifest import FOLDER, Manifest, read_manifest
from corruptkit.opening import open_source, open_variant, stored_recipe
from corruptkit.plan import make_plan, ratio_text
from corruptkit.recipe import Recipe

_OURS = ("manifest.json", "manifest.sha256")
_SCRATCH = (f"{FOLDER}/index-", f"{FOLDER}/partial/")  # no reader takes these for data, and verify reads neither


@dataclass(frozen=True)
class Verification:
    """What was checked, in words, and every problem that was found; without problems the answer is yes."""

    manifest: Manifest | None
    checks: tuple[str, ...]
    problems: tuple[Problem, ...]


def verify(
    path: str | Path,
    *,
    source: str | Path | None = None,
    embeddings: str | Path | None = None,
    deep: bool = False,
    workers: int = 1,
    watch: Watch | None = None,
) -> Verification:
    """Check a variant, trusting nothing but SPEC.md.

    Digests of every file; the plan's digest and counts; the conditions in the shards, which with the plan's edits undone must
    give the source's fingerprint; and the plan, made again from the recipe. With `source` that is done from the source itself;
    `deep` compares every byte of the shards with it as well. A recipe that names embeddings needs their file to be planned again.
    """
    place = local_path(path)
    checks: list[str] = []
    try:
        manifest = read_manifest(place)
    except IntegrityError as error:
        return Verification(None, (), error.problems)
    if deep and (source is None or not manifest.shards):
        do = "materialise it first" if not manifest.shards else "state --source PATH"
        raise CatalogError(Problem("--deep", "there is nothing to compare", "shards and their source", do))
    problems = check_files(place, manifest, workers, watch)
    shards = f"{len(manifest.shards)} shards and {len(manifest.files)} other files" if manifest.shards else f"{len(manifest.files)} files"
    checks.append(f"{shards} have the SHA-256 of the manifest")
    if not problems:
        try:
            checks.extend(_check_content(place, manifest, source, embeddings, deep=deep))
        except CorruptkitError as error:
            problems = list(error.problems)
    return Verification(manifest, tuple(checks), tuple(problems))


def check_files(place: Path, manifest: Manifest, workers: int = 1, watch: Watch | None = None) -> list[Problem]:
    """Missing, changed and unlisted files."""
    listed = {shard.name: (shard.bytes, shard.sha256) for shard in manifest.shards}
    listed |= {record.path: (record.bytes, record.sha256) for record in manifest.files}
    found = map_shards(_digest_task, [place / name for name in listed], workers)
    problems = []
    for (name, (_, expected)), digest in zip(listed.items(), watch(found, len(listed)) if watch else found, strict=True):
        if digest != expected:
            what = f"SHA-256 {digest[:16]}..." if digest else "it is missing or cannot be read"
            problems.append(Problem(str(place / name), what, f"SHA-256 {expected[:16]}...", "do not use it; make the variant again"))
    known = {*listed, *(f"{FOLDER}/{name}" for name in _OURS)}
    for file in sorted(file for file in place.rglob("*") if not file.is_dir() or file.is_symlink()):
        name = file.relative_to(place).as_posix()
        if name not in known and not name.startswith(_SCRATCH):
            problems.append(Problem(str(file), "a file that the manifest does not list", do="remove it or do not use the variant"))
    return problems


def _digest_task(file: Path) -> str:
    try:
        return file_sha256(file) if file.is_file() and not file.is_symlink() else ""
    except OSError:
        return ""


def _check_content(
    place: Path, manifest: Manifest, source: str | Path | None, embeddings: str | Path | None, *, deep: bool
) -> Iterator[str]:
    """Yield each check that holds; raise where one does not."""
    edits = read_edits(place / FOLDER / "plan.parquet")
    _check_plan(place, manifest, edits)
    yield f"the plan's {edits.num_rows:,} edits have the digest that the variant_id names"
    variant = open_variant(place) if manifest.shards else None
    below = open_source(place, manifest, source, trust=False) if source is not None or variant is None else None
    known = None if below is None else below.index()
    if below is not None:
        yield f"the source at {below.path} has the fingerprint that the variant_id names"
    if variant is not None:
        known = _undo_edits(place, manifest, variant.index(cache=False), edits)
        if manifest.circumstance.key_encoding == "source":  # shards of another format have other names
            _check_places(place, known, edits)
        yield "the shards hold every new value, and without the edits they have the source's fingerprint"
    assert known is not None, "a variant has shards or a source"
    _check_recipe(place, manifest, stored_recipe(place, manifest, embeddings), known, edits)
    yield "the recipe, planned again, gives the same edits"
    if deep:
        assert variant is not None, "checked at the start"
        assert below is not None, "checked at the start"
        compare_variant(variant, below, edits)
        yield "every byte of every shard and of what stands beside them is the source's or the plan's"


def _undo_edits(place: Path, manifest: Manifest, index: Index, edits: pa.Table) -> Index:
    """The index of the source, from the shards of the variant."""
    composed = compose_edits(edits)
    found = map_edits(composed, index)
    start = 0
    for stat, record in zip(index.meta.shards, manifest.shards, strict=True):
        _expect(place / record.name, "rows", str(stat.rows), str(record.rows))
        _expect(place / record.name, "edits", str(int(found.count[start : start + stat.rows].sum())), str(record.edits))
        start += stat.rows
    declared = manifest.identity["source"].get("null_label", False)
    undone = edit_index(index, reverse_edits(composed), null_label=declared)
    # Old values stand in the plan alone: a shard without its new value is seen by making the variant of the source again.
    again = edit_index(undone, composed, null_label=index.meta.null_label)
    _expect(place, "new values of the plan that give the fingerprint", again.meta.fingerprint, index.meta.fingerprint)
    _expect(place, "without the edits, the fingerprint", undone.meta.fingerprint, manifest.identity["source"]["fingerprint"])
    return undone


def _expect(place: Path, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise IntegrityError(Problem(str(place), f"{what} {found:.40}", f"{expected:.40}", "do not use it"))


def _check_plan(place: Path, manifest: Manifest, edits: pa.Table) -> None:
    file = place / FOLDER / "plan.parquet"
    _expect(file, "the digest", digest_edits(edits), manifest.identity["plan_digest"])
    _expect(file, "the number of edits", str(edits.num_rows), str(manifest.identity["edits"]))
    changed = len(pc.unique(compose_edits(edits)["key"]))
    rows = manifest.identity["source"]["rows"]
    counts = manifest.counts
    _expect(file, "counts.rows", str(rows), str(counts.rows))
    _expect(file, "counts.changed", str(changed), str(counts.changed))
    _expect(file, "counts.effective_ratio", ratio_text(changed, rows), counts.effective_ratio)


def _check_recipe(place: Path, manifest: Manifest, recipe: Recipe, index: Index, edits: pa.Table) -> None:
    """Plan again and compare everything but the shards' names, which another layout of the same rows does not share."""
    plan = make_plan(recipe, index)
    for field, mine in plan.identity.items():
        theirs = manifest.identity[field]  # type: ignore[literal-required]
        _expect(place, f"planned again, the identity's {field}", str(mine), str(theirs))
    # What a source excludes is left out where its rows are written in another format.
    counts = plan.counts().model_copy(update={"excluded": manifest.counts.excluded})
    _expect(place, "planned again, the counts", counts.model_dump_json(), manifest.counts.model_dump_json())
    if not plan.edits.drop_columns("shard").equals(edits.drop_columns("shard")):
        expected = "those of the recipe planned again"
        raise IntegrityError(Problem(str(place / FOLDER / "plan.parquet"), "other edits", expected, "do not use it"))


def _check_places(place: Path, index: Index, edits: pa.Table) -> None:
    """The shard that each edit names, where the shards are at hand."""
    rows = pc.index_in(edits["key"], value_set=index.column("key")).combine_chunks()
    names = pa.array([shard.name for shard in index.meta.shards], pa.large_string())
    if not names.take(index.column("shard").take(rows)).equals(edits["shard"].combine_chunks()):
        found, expected = "edits under other shards", "the shards that hold their rows"
        raise IntegrityError(Problem(str(place / FOLDER / "plan.parquet"), found, expected, "do not use it", key="shard"))
