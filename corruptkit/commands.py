"""What each command of the command line does: from parsed words to one library call, from its result to lines and JSON."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from corruptkit.account_lines import account_lines
from corruptkit.accounting import describe_edits, describe_plan, describe_variant
from corruptkit.catalog import load_catalog
from corruptkit.dataset import Dataset
from corruptkit.diff import diff
from corruptkit.engines.local import Watch
from corruptkit.errors import CatalogError, ConflictError, CorruptkitError, Problem
from corruptkit.fetching import fetch
from corruptkit.files import explain_disk, local_path, open_atomic
from corruptkit.formats.overlay import read_edits, write_edits
from corruptkit.index import Index
from corruptkit.listing import describe_entries, describe_stage
from corruptkit.manifest import FOLDER, CountRecord, Manifest, read_manifest
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plans
from corruptkit.recipe import Recipe
from corruptkit.request import asked_kind, default_home, read_overlay, read_request, source_flags
from corruptkit.restore import keeps_bytes, restore
from corruptkit.tasks import Format, usual_format
from corruptkit.terminal import Outcome
from corruptkit.verify import verify
from corruptkit.write import write_variants

_EXAMPLES = 10


def _watch(label: str) -> Watch:
    """A progress bar on standard error, where that is a terminal."""

    def show(items: Iterator[Any], total: int) -> Iterator[Any]:
        return iter(tqdm(items, total=total, desc=label, unit="shard", disable=None, file=sys.stderr, leave=False))

    return show


def _workers(args: Namespace) -> int:
    return args.workers or len(os.sched_getaffinity(0))


def _writers(args: Namespace, dataset: Dataset, form: Format) -> int:
    """Processes that write: where tars are copied, each keeps two cores busy, since it digests while it copies."""
    copies = form == dataset.layout.format == "webdataset"
    return args.workers or max(1, _workers(args) // (2 if copies else 1))


def make_variants(args: Namespace) -> Outcome:
    catalog, dataset, recipes = read_overlay(args) if args.overlay is not None else read_request(args)
    form = args.format or _default_format(args, dataset)
    outs = [_target(args, f"{name}.overlay" if form == "overlay" else name, len(recipes)) for name, _ in recipes]
    index = dataset.index(workers=_workers(args), watch=_watch("index"))
    named = zip(_decide_all(args, recipes, dataset, index), outs, strict=True)
    writers = _writers(args, dataset, form)
    manifests = write_variants(dataset, named, form, workers=writers, watch=_watch("write"), catalog_digest=catalog.digest)
    lines, variants = [], []
    for manifest, out in zip(manifests, outs, strict=True):
        name = manifest.variant_id
        variants.append({"variant_id": name, "path": str(out), "format": form, "counts": manifest.counts.model_dump(mode="json")})
        lines += [f"{out}  ({form}, variant_id {name})", f"  {_count_line(manifest.counts)}"]
    lines.append(f"check it: corruptkit verify {variants[-1]['path']}")
    return Outcome(lines, {"variants": variants})


def _default_format(args: Namespace, dataset: Dataset) -> Format:
    """The source's own; what `--from` materialises is no overlay, even where its source is one."""
    usual = usual_format(dataset)
    if args.overlay is None or usual != "overlay":
        return usual
    return usual_format(replace(dataset, edits=None))


def plan_variants(args: Namespace) -> Outcome:
    _, dataset, recipes = read_request(args)
    index = dataset.index(workers=_workers(args), watch=_watch("index"))
    lines, variants, accounts = [], [], []
    for (name, _), plan in zip(recipes, _decide_all(args, recipes, dataset, index), strict=True):
        out = _target(args, f"{name}.plan.parquet", len(recipes))
        _refuse_shard(out, dataset)
        with explain_disk(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            with open_atomic(out, out.parent) as file:
                write_edits(plan.edits, file)
        counts = plan.counts()
        variants.append({"variant_id": plan.variant_id, "path": str(out), "format": "plan", "counts": counts.model_dump(mode="json")})
        accounts.append(describe_plan(plan, index))
        lines += [f"{out}  (variant_id {plan.variant_id})", f"  {_count_line(counts)}"]
        lines += account_lines(accounts[-1], dataset.layout.class_names)
    return Outcome(lines, {"variants": variants, "accounts": [account.model_dump(mode="json") for account in accounts]})


def _refuse_shard(out: Path, dataset: Dataset) -> None:
    """Refuse a plan under a name that would make it a shard or a side-car of the source, or take the place of one."""
    if out.name.endswith(".parquet") and not out.name.endswith(".plan.parquet") and dataset.root.resolve() in out.resolve().parents:
        found, expected = "it would be taken for a shard or a side-car of the source", "a name that ends in .plan.parquet"
        raise ConflictError(Problem(str(out), found, expected, "choose another --out"))


def _decide_all(args: Namespace, recipes: Sequence[tuple[str, Recipe]], dataset: Dataset, index: Index) -> Iterator[Plan]:
    """The plans of recipes one by one; what is wrong is told under the names that the words gave to source and recipe."""
    try:
        for plan in make_plans([recipe for _, recipe in recipes], index, strict=args.strict):
            _warn(plan, dataset)
            yield plan
    except CorruptkitError as error:
        names = {"source": str(dataset.path), "recipe": args.recipe or args.variant or f"--{asked_kind(args)}"}
        raise type(error)(*(replace(problem, file=names.get(problem.file, problem.file)) for problem in error.problems)) from None


def _count_line(counts: CountRecord) -> str:
    stages = ", ".join(f"{stage.kind} {stage.edits:,} of {stage.eligible:,} eligible" for stage in counts.stages)
    return f"{counts.changed:,} of {counts.rows:,} rows changed, effective ratio {counts.effective_ratio} ({stages})"


def _target(args: Namespace, name: str, count: int) -> Path:
    if args.out is None:
        return Path(name)
    return local_path(args.out) / name if count > 1 else local_path(args.out)


def _warn(plan: Plan, dataset: Dataset) -> None:
    for problem in plan.shortfalls:
        print(f"warning: {problem}", file=sys.stderr)
    keys = dataset.index().column("key")
    if "label" in plan.composed["field"].unique().to_pylist() and len(keys) and _names_class(keys[0].as_py()):
        found = f"the key '{keys[0].as_py()}' begins with a WordNet id, which tells the true class to whoever reads names"
        print(f"warning: {Problem(str(dataset.path), found)}", file=sys.stderr)


def _names_class(key: str) -> bool:
    stem = key.rpartition("/")[2]
    return len(stem) > 9 and stem[0] == "n" and stem[1:9].isdigit()


def verify_variant(args: Namespace) -> Outcome:
    found = verify(
        args.path, source=args.source, embeddings=args.embeddings, deep=args.deep, workers=_workers(args), watch=_watch("verify")
    )
    lines = [f"ok: {check}" for check in found.checks] + [f"problem: {problem}" for problem in found.problems]
    lines.append(
        f"{args.path}: {'NOT verified' if found.problems else f'verified, variant_id {found.manifest and found.manifest.variant_id}'}"
    )
    data = {"verified": not found.problems, "checks": list(found.checks), "problems": [problem.as_json() for problem in found.problems]}
    return Outcome(lines, data | {"variants": _variants(args.path, found.manifest)}, 1 if found.problems else 0)


def _variants(path: str, manifest: Manifest | None) -> list[dict[str, Any]]:
    if manifest is None:
        return []
    counts = manifest.counts.model_dump(mode="json")
    return [{"variant_id": manifest.variant_id, "path": path, "format": manifest.circumstance.format, "counts": counts}]


def restore_source(args: Namespace) -> Outcome:
    manifest = read_manifest(local_path(args.path))
    out = restore(args.path, args.out, source=args.source)
    how = "byte for byte" if keeps_bytes(manifest) else "row by row, in bytes of their own"
    return Outcome([f"{out}: the source of {args.path}, {how}"], {"path": str(out), "variants": _variants(args.path, manifest)})


def diff_datasets(args: Namespace) -> Outcome:
    found = diff(args.first, args.second)
    only = ((args.first, found.only_first), (args.second, found.only_second))
    lines = [f"{key}: only in {place}" for place, keys in only for key in keys]
    lines += [f"{key}: {name} {_shown(a)} | {_shown(b)}" for key, name, a, b in found.changed]
    count = len(lines)
    lines = lines[: args.limit] + ([f"... {count - args.limit:,} more (--limit)"] if count > args.limit else [])
    if found.identity:
        lines.insert(0, f"the identities differ in: {', '.join(name for name, _, _ in found.identity)}")
    lines.append(f"{count:,} conditions differ" if count else "no condition differs")
    data = {
        "identity": [list(row) for row in found.identity],
        "only_first": list(found.only_first),
        "only_second": list(found.only_second),
        "changed": [dict(zip(("key", "field", "first", "second"), row, strict=True)) for row in found.changed],
    }
    return Outcome(lines, data, 1 if count else 0)


def _shown(value: str | None) -> str:
    return "none" if value is None else repr(value)


def show_variant(args: Namespace) -> Outcome:
    place = local_path(args.path)
    manifest = read_manifest(place)
    chain = ", then ".join(map(describe_stage, manifest.identity["recipe"]["chain"]))
    source, made = manifest.identity["source"], manifest.circumstance
    lines = [
        f"{args.path}: {made.format}, variant_id {manifest.variant_id}",
        f"  source    {manifest.source.name}, split {source['split']}, {source['rows']:,} rows, K = {source['classes']}",
        f"  from      {manifest.source.source_url}",
        f"  recipe    seed {manifest.identity['recipe']['seed']}: {chain}",
        f"  counts    {_count_line(manifest.counts)}",
        f"  files     {_size_line(manifest)}",
        f"  made      {made.finished} with corruptkit {made.versions.get('corruptkit', '?')}",
    ]
    edits = read_edits(place / FOLDER / "plan.parquet")
    if args.counts or args.source is not None:
        account = describe_variant(place, args.source)
    else:
        account = describe_edits(manifest.identity, manifest.counts, edits)
    lines += account_lines(account, manifest.source.class_names)
    rows = edits.sort_by([("stage", "ascending"), ("rank", "ascending")]).slice(0, args.edits).to_pylist() if args.edits else []
    lines += [f"  {row['key']}  {row['field']}: {row['old']}  ->  {row['new']}" for row in rows]
    data = {"manifest": manifest.model_dump(mode="json"), "account": account.model_dump(mode="json"), "edits": rows}
    return Outcome(lines, data | {"variants": _variants(args.path, manifest)})


def _size_line(manifest: Manifest) -> str:
    if manifest.shards:
        return f"{len(manifest.shards)} shards, {sum(shard.bytes for shard in manifest.shards):,} bytes"
    return f"a plan of {sum(record.bytes for record in manifest.files):,} bytes, applied while the source is read"


def index_source(args: Namespace) -> Outcome:
    dataset = open_dataset(args.source, key=args.key, classes=args.classes, **source_flags(args))
    index = dataset.index(workers=_workers(args), watch=_watch("index"))
    found = _describe_index(index)
    lines = [f"{args.source}: {found['rows']:,} rows in {found['shards']} shards"]
    lines += [f"  {name:<12}{value}" for name, value in found.items() if name not in ("rows", "shards")]
    rejected = [
        Problem(index.meta.shards[row["shard"]].name, row["reason"], do="excluded", key=row["key"]) for row in index.excluded.to_pylist()
    ]
    lines += [f"  excluded    {problem}" for problem in rejected[:_EXAMPLES]]
    return Outcome(lines, {"index": found})


def _describe_index(index: Index) -> dict[str, Any]:
    rows, meta = index.rows(), index.meta
    return {
        "rows": len(index),
        "shards": len(meta.shards),
        "excluded": len(index.excluded),
        "split": meta.split,
        "key_rule": meta.key_rule,
        "labels": 0 if rows.labels is None else int((rows.labels >= 0).sum()),
        "captions": 0 if rows.captions is None else len(rows.captions) - rows.captions.null_count,
        "classes": meta.classes,
        "inferred": meta.classes_inferred,
        "fingerprint": meta.fingerprint,
    }


def list_entries(args: Namespace) -> Outcome:
    lines, found = describe_entries(args.what, args.pattern, lambda: load_catalog(Path(args.catalog) if args.catalog else None))
    return Outcome(lines, {args.what if args.what != "variants" else "names": found})


def fetch_source(args: Namespace) -> Outcome:
    entry = load_catalog(Path(args.catalog) if args.catalog else None).source(args.name)
    if not entry.fetch:
        raise CatalogError(Problem("corruptkit fetch", f"{entry.name} cannot be fetched by corruptkit", do=f"get it with: {entry.get}"))
    given = local_path(args.given) if args.given else None
    out = fetch(entry.fetch, local_path(args.out) if args.out else default_home(entry.name), given=given, progress=True)
    return Outcome([f"{out}: {entry.title}", f"  {entry.license}: {entry.attribution}"], {"path": str(out), "license": entry.license})


COMMANDS: dict[str, Callable[[Namespace], Outcome]] = {
    "make": make_variants,
    "plan": plan_variants,
    "verify": verify_variant,
    "restore": restore_source,
    "diff": diff_datasets,
    "show": show_variant,
    "index": index_source,
    "list": list_entries,
    "fetch": fetch_source,
}
