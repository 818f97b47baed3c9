"""What the words of `make` and `plan` ask for: a data set, and recipes under the names that their variants get."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from corruptkit.catalog import Catalog, Source, Variant, load_catalog, name_classes
from corruptkit.corruptions import KINDS, Rewrite
from corruptkit.dataset import Dataset
from corruptkit.errors import CatalogError, DatasetError, IntegrityError, Problem
from corruptkit.fetching import fetch
from corruptkit.files import local_path
from corruptkit.manifest import FOLDER, read_manifest
from corruptkit.names import folder_name
from corruptkit.opening import open_dataset, open_source, stored_recipe
from corruptkit.plan import make_plan
from corruptkit.recipe import Recipe, load_embeddings, load_recipe, name_variant, parse_recipe

# What a kind takes besides its ratio, by flag.
_STAGE_FLAGS = ("mode", "groups", "matrix", "embeddings", "level", "text", "names", "table", "levels", "of")
_SOURCE_FLAGS = ("split", "label_column", "caption_column", "image_column", "bad")


def read_request(args: Namespace) -> tuple[Catalog, Dataset, list[tuple[str, Recipe]]]:
    """The data set and the recipes, each with its name, that the words ask for."""
    dataset = None if args.source is None else open_dataset(args.source, key=args.key, classes=args.classes, **source_flags(args))
    catalog = load_catalog(Path(args.catalog) if args.catalog else None)
    if args.variant is not None:
        entries = catalog.match(args.variant)
        recipes = _read_entries(args, entries)
        dataset = _open_entry(args, catalog.source(args.dataset or entries[0].source)) if dataset is None else dataset
        return catalog, dataset, recipes
    if args.recipe is not None:
        _refuse_flags(args, "--recipe", (*_STAGE_FLAGS, "seed"))
        chains = [load_recipe(Path(args.recipe))]
    else:
        chains = _read_chains(args, () if args.dataset is None else catalog.source(args.dataset).class_names)
    if dataset is None:
        if args.dataset is None:
            raise CatalogError(Problem("corruptkit make", "nothing says what to corrupt", do="give --dataset NAME or --source PATH"))
        dataset = _open_entry(args, catalog.source(args.dataset))
    if args.recipe is not None:
        return catalog, dataset, [(Path(args.recipe).stem, recipe) for recipe in chains]
    return (
        catalog,
        dataset,
        [(folder_name(name_variant(dataset.name, recipe.chain[0].model_dump(), recipe.seed)), recipe) for recipe in chains],
    )


def _read_entries(args: Namespace, entries: list[Variant]) -> list[tuple[str, Recipe]]:
    """The recipes of variants of the catalog, each with its name; rewrites whose table is the user's take it from --table."""
    asks = all(stage["kind"] == "rewrite" and "table" not in stage for entry in entries for stage in entry.chain)
    _refuse_flags(args, "--variant", (*(name for name in _STAGE_FLAGS if not (asks and name == "table")), "seed"))
    table: object = None if args.table is None else Path(args.table)
    found = []
    for entry in entries:
        try:
            recipe = entry.recipe(table)
        except CatalogError as error:
            raise CatalogError(*(_name_flag(problem, "variant") for problem in error.problems)) from None
        if table is not None and isinstance(recipe.chain[0], Rewrite):
            table = recipe.chain[0].table  # millions of texts are read once for all ratios and seeds
        found.append((folder_name(entry.name), recipe))
    return found


def _refuse_flags(args: Namespace, owner: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise CatalogError(Problem(flag, f"it stands beside {owner}, which says it already", do=f"leave out {flag}"))


def asked_kind(args: Namespace) -> str | None:
    """The kind whose ratio is given."""
    return next((kind for kind in KINDS if getattr(args, kind) is not None), None)


def _read_chains(args: Namespace, class_names: Iterable[str]) -> list[Recipe]:
    """The recipes that the flags of a kind state, one for each ratio and seed."""
    kind = asked_kind(args)
    if kind is None:
        kinds = ", ".join(f"--{name} R" for name in KINDS)
        raise CatalogError(Problem("corruptkit make", "nothing says how to corrupt", do=f"give {kinds}, --recipe FILE or --variant NAME"))
    given = {name: getattr(args, name) for name in _STAGE_FLAGS if getattr(args, name) is not None}
    if "embeddings" in given:
        given["embeddings"] = load_embeddings(Path(given["embeddings"]))  # once for all ratios
    found = []
    for ratio, seed in product(getattr(args, kind).split(","), ("0" if args.seed is None else args.seed).split(",")):
        stage = name_classes({"kind": kind, "ratio": ratio.strip(), **given}, class_names)
        try:
            found.append(parse_recipe({"seed": seed.strip(), "chain": [stage]}, f"--{kind}", Path()))
        except CatalogError as error:
            raise CatalogError(*(_name_flag(problem, kind) for problem in error.problems)) from None
        if isinstance(corruption := found[-1].chain[0], Rewrite):
            given["table"] = corruption.table  # millions of texts are read once for all ratios and seeds
    return list(dict.fromkeys(found))  # "0.1,0.10" is one


def _name_flag(problem: Problem, kind: str) -> Problem:
    """A problem of a recipe that was given as flags, by the flag it came from."""
    field = problem.key.rpartition(".")[2]
    flag = f"--{field}" if field in (*_STAGE_FLAGS, "seed") else f"--{kind}"
    return replace(problem, file=flag, key="", do=problem.do.replace(problem.key, flag) if problem.key else problem.do)


def source_flags(args: Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in _SOURCE_FLAGS if getattr(args, name) is not None}


def _open_entry(args: Namespace, entry: Source) -> Dataset:
    """A data set of the catalog; what is stated besides goes before what the entry says."""
    classes = entry.classes if args.classes is None else args.classes
    dataset = open_dataset(_find_source(entry), key=args.key or entry.key_rule, classes=classes, fields=entry.fields, **source_flags(args))
    return replace(dataset, name=entry.name)


def _find_source(entry: Source) -> Path:
    """Where a data set of the catalog lies; one that is free to have is fetched."""
    home = default_home(entry.name)
    for place in (home, Path("data") / entry.name):
        if (place / FOLDER / "fetched.json").exists() if not entry.needs_consent else place.is_dir():
            return place
    if entry.needs_consent or not entry.fetch:
        raise DatasetError(Problem(str(home), f"{entry.name} is not there", f"the data set ({entry.terms})", f"get it with: {entry.get}"))
    print(f"{entry.name} is not at {home}: fetching it ({entry.license}; {entry.attribution})", file=sys.stderr)
    return fetch(entry.fetch, home, progress=True)


def default_home(name: str) -> Path:
    return Path(os.environ.get("CORRUPTKIT_DATA") or "data") / name


def read_overlay(args: Namespace) -> tuple[Catalog, Dataset, list[tuple[str, Recipe]]]:
    """The source of an overlay, and its recipe under its name."""
    place = local_path(args.overlay)
    said = [name for name in _STAGE_FLAGS if name != "embeddings"]  # the one thing that an overlay does not hold
    _refuse_flags(args, "--from", ("dataset", *KINDS, "recipe", "variant", *said, "seed", "key", "classes", *_SOURCE_FLAGS))
    manifest = read_manifest(place)
    if manifest.circumstance.format != "overlay":
        found = f"a variant in the format {manifest.circumstance.format}"
        raise CatalogError(Problem(str(place), found, "an overlay", "state it as --source to corrupt it further"))
    dataset, recipe = open_source(place, manifest, args.source), stored_recipe(place, manifest, args.embeddings)
    found = make_plan(recipe, dataset.index()).variant_id
    if found != manifest.variant_id:
        raise IntegrityError(Problem(str(place), f"planned again, it is {found}", manifest.variant_id, "do not use it"))
    catalog = load_catalog(Path(args.catalog) if args.catalog else None)
    return catalog, dataset, [(place.resolve().name.removesuffix(".overlay"), recipe)]
