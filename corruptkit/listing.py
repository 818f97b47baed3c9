"""What there is, in lines for a person and as values for a program: sources and variants of a catalog, kinds of corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from corruptkit.catalog import Catalog, Source
from corruptkit.corruptions import KINDS
from corruptkit.errors import CatalogError, Problem, nearest_word
from corruptkit.names import match_names


def describe_entries(what: str, pattern: str, load: Callable[[], Catalog]) -> tuple[list[str], dict[str, Any]]:
    """Sources, variants or kinds whose names match: the lines, and a value for each name. The catalog is loaded where it is needed."""
    if what == "kinds":
        kinds = _choose(what, pattern, {kind: _describe_kind(kind) for kind in KINDS})
        return _align_lines(kinds), kinds
    catalog = load()
    if what == "sources":
        sources = _choose(what, pattern, catalog.sources)
        lines = [line for source in sources.values() for line in describe_source(source)]
        return lines, {name: source.model_dump(mode="json") for name, source in sources.items()}
    variants = _choose(what, pattern, catalog.variants)
    names = {name: f"seed {entry.seed}: {', '.join(map(describe_stage, entry.chain))}" for name, entry in variants.items()}
    return _align_lines(names), names


def describe_source(source: Source) -> list[str]:
    """What a newcomer asks of a data set: what it is, how large, under which licence, and how to get it."""
    rows = ", ".join(f"{count:,} rows of {split}" for split, count in source.splits.items()) or "rows not known"
    fields = " and ".join(
        f"label of {source.classes:,} classes" if field == "label" and source.classes else field for field in source.fields
    )
    terms = "free to fetch" if not source.needs_consent else "fetched when asked for" if source.fetch else "not fetched by corruptkit"
    lines = [
        f"{source.name}: {source.title}",
        f"  holds    {rows}; {fields}; keys by the rule {source.key_rule}",
        f"  licence  {source.license}, {source.license_url}",
        f"  terms    {source.terms}",
        f"  get it   {source.get}  ({terms})",
    ]
    return lines + [f"  mirror   {mirror.url}  ({mirror.format})" for mirror in source.mirrors]


def describe_stage(stage: Mapping[str, Any]) -> str:
    """A stage of a chain in a few words; long values by their length."""
    rest = {name: value for name, value in stage.items() if name not in ("kind", "ratio") and value is not None}
    words = ", ".join(f"{len(value):,} {name}" if isinstance(value, list) else f"{name} {value}" for name, value in rest.items())
    return f"{stage.get('kind')} {stage.get('ratio')}" + (f" ({words})" if words else "")


def _describe_kind(kind: str) -> str:
    model = KINDS[kind]
    return f"{model.__doc__} Modes: {', '.join(get_args(model.model_fields['mode'].annotation))}."


def _choose(what: str, pattern: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: entries[name] for name in match_names(pattern, entries)}
    if entries and not found:
        raise CatalogError(Problem("corruptkit list", f"no {what} match '{pattern}'", do=nearest_word(pattern, entries)))
    return found


def _align_lines(found: Mapping[str, str]) -> list[str]:
    width = max(map(len, found), default=0)
    return [f"{name:<{width}}  {text}" for name, text in found.items()]
