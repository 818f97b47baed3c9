"""The catalog: data sets and the variants worth making of them, as TOML files. All problems of all files are reported together."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from corruptkit.errors import CatalogError, Problem, nearest_word, validation_problems
from corruptkit.fetching import FETCHERS
from corruptkit.names import hub_name, match_names

if TYPE_CHECKING:
    from corruptkit.recipe import Recipe

_NAME = re.compile("[a-z0-9][a-z0-9_.-]*")
_RATIO = re.compile(r"0|1|0\.[0-9]*[1-9]")
_KEY_RULES = ("sample", "path", "stem", "shard/key", "ordinal", "column:NAME", "json:FIELD", "regex:R")
# Content that a file may name lies beside it: groups, matrices, key files, names of classes.
_INPUTS = (".csv", ".json", ".txt")

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Entry = TypeVar("Entry", bound=BaseModel)


class Mirror(BaseModel):
    """One place where a data set lies, in a layout of its own; `rows` by split, as they are known there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, Field(pattern="^https?://[^ ]+$")]
    format: Literal["webdataset", "parquet", "arrow", "imagefolder", "archives", "urls"]
    rows: Mapping[Text, Count] = Field(default_factory=dict)
    note: str = ""


class Source(BaseModel):
    """A data set: what it is, whose it is, how its rows are named and how to get it; its name is its file's stem."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Text
    title: Text
    home: Text
    license: Text
    license_url: Text
    attribution: Text
    terms: Text
    key_rule: Text
    fields: Annotated[tuple[Literal["label", "caption"], ...], Field(min_length=1)]
    classes: Annotated[int, Field(strict=True, ge=1)] | None = None
    class_names: tuple[Text, ...] = ()
    splits: Mapping[Text, Count] = Field(default_factory=dict)  # rows of each split, as `get` gets them
    mirrors: tuple[Mirror, ...] = ()
    fetch: str = ""
    needs_consent: Annotated[bool, Field(strict=True)] = True
    get: Text

    @field_validator("key_rule")
    @classmethod
    def _check_rule(cls, rule: str) -> str:
        head, _, tail = rule.partition(":")
        if rule not in _KEY_RULES[:5] and not (head in {"column", "json", "regex"} and tail):
            raise ValueError(f"unknown key rule '{rule}', {nearest_word(rule, _KEY_RULES)}")
        return rule

    @field_validator("fetch")
    @classmethod
    def _check_fetcher(cls, name: str) -> str:
        if name and name not in FETCHERS:
            raise ValueError(f"unknown fetcher '{name}', {nearest_word(name, FETCHERS)}")
        return name

    @model_validator(mode="after")
    def _check_classes(self) -> Self:
        if self.classes is not None and "label" not in self.fields:
            raise ValueError("classes are stated, expected 'label' among the fields")
        if self.class_names and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names, expected as many as classes ({self.classes})")
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("a class name stands twice, expected distinct names")
        if not (self.needs_consent or self.fetch):
            raise ValueError("needs_consent is false, expected the name of a fetcher in fetch")
        return self


class Ladder(BaseModel):
    """One kind at several ratios and seeds; whatever else it states are the kind's own fields."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Text
    mode: Text | None = None
    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")] | None = None  # in place of kind and mode in its variants' names
    ratios: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1)]

    @field_validator("ratios")
    @classmethod
    def _check_ratios(cls, ratios: tuple[str, ...]) -> tuple[str, ...]:
        for ratio in ratios:
            if not _RATIO.fullmatch(ratio):
                raise ValueError(f"found ratio '{ratio}', expected a decimal in [0, 1] without trailing zeros, such as '0.05'")
        return ratios

    def stage(self, ratio: str) -> dict[str, Any]:
        """The stage of a chain that this ladder is at one ratio."""
        mode = {} if self.mode is None else {"mode": self.mode}
        return {"kind": self.kind, **mode, "ratio": ratio, **(self.model_extra or {})}


class Grid(BaseModel):
    """A file of variants: the ladders of one source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Text
    ladder: Annotated[tuple[Ladder, ...], Field(min_length=1)]


class Variant(BaseModel):
    """A variant worth making: a source and the seed and chain of its recipe, as plain values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # SOURCE/LABEL-RATIO-sSEED; LABEL-RATIO-sSEED may be written with _ for -, as the Hub's rules ask for
    source: str
    seed: int
    chain: tuple[dict[str, Any], ...]
    file: Path

    def recipe(self, table: object = None) -> Recipe:
        """The recipe, checked; paths in it are relative to the file that states it. A `table` is for rewrites that state none."""
        from corruptkit.recipe import parse_recipe  # brings numpy and pyarrow, which a list of names does not need

        given = {} if table is None else {"table": table}
        chain = [given | stage if stage["kind"] == "rewrite" else stage for stage in self.chain]
        return parse_recipe({"seed": self.seed, "chain": chain}, str(self.file), self.file.parent)


@dataclass(frozen=True)
class Catalog:
    """Sources and variants by name; `digest` covers every file they were read from."""

    folder: Path
    sources: Mapping[str, Source]
    variants: Mapping[str, Variant]
    digest: str

    def source(self, name: str) -> Source:
        return _find_entry(self.sources, name, "source", self.folder)

    def variant(self, name: str) -> Variant:
        return _find_entry(self.variants, name, "variant", self.folder)

    def match(self, pattern: str) -> list[Variant]:
        """The variants of one source whose names match a pattern, in the order of the catalog."""
        found = [self.variants[name] for name in match_names(pattern, self.variants)]
        sources = list(dict.fromkeys(variant.source for variant in found))
        if not found:
            self.variant(pattern)
        if len(sources) > 1:
            said = f"'{pattern}' matches variants of {len(sources)} sources: {', '.join(sources[:3])}"
            raise CatalogError(Problem(str(self.folder), said, "variants of one", f"write {sources[0]}/..."))
        return found


def name_classes(stage: Mapping[str, Any], class_names: Iterable[str]) -> dict[str, Any]:
    """A stage; one of mode `template` that states no names gets those of its source, where it has any."""
    takes = stage.get("mode") == "template" and "names" not in stage
    names = list(class_names) if takes else []
    return {**stage, "names": names} if names else dict(stage)


def load_catalog(folder: Path | None = None) -> Catalog:
    """Read a catalog: `folder`, else $CORRUPTKIT_CATALOG, else the one that ships with corruptkit.

    Raises CatalogError with every problem of every file.
    """
    root = find_catalog(folder)
    problems: list[Problem] = []
    files = _list_files(root, problems)
    sources: dict[str, Source] = {}
    for path in files["sources"]:
        source = _read_source(path, problems)
        sources |= {} if source is None else {source.name: source}
    # A source that is broken itself is reported already; a grid that names it is no second problem.
    known = {path.stem: sources.get(path.stem) for path in files["sources"]}
    variants: dict[str, Variant] = {}
    hub: dict[str, str] = {}
    for path in files["variants"]:
        for variant in _read_grid(path, known, problems):
            if variant.name in variants:
                problems.append(Problem(str(path), f"variant '{variant.name}' is stated twice", do="give a ladder a name of its own"))
            elif hub.setdefault(hub_name(variant.name), variant.name) != variant.name:
                found = f"variants '{hub[hub_name(variant.name)]}' and '{variant.name}' have one name on the Hub"
                problems.append(Problem(str(path), found, do="give a ladder another name"))
            variants[variant.name] = variant
    if problems:
        raise CatalogError(*dict.fromkeys(problems))
    return Catalog(root, sources, variants, _digest_files(root, [*files["sources"], *files["variants"], *files["inputs"]]))


def find_catalog(folder: Path | None = None) -> Path:
    """The catalog's folder: the one named, else the environment's, else the wheel's, else the checkout's."""
    shipped = Path(__file__).parent / "_catalog"
    if not shipped.is_dir():
        shipped = Path(__file__).parents[1] / "catalog"
    chosen = folder or os.environ.get("CORRUPTKIT_CATALOG") or shipped
    return Path(chosen)


def _find_entry(entries: Mapping[str, Entry], name: str, noun: str, folder: Path) -> Entry:
    if name not in entries:
        raise CatalogError(Problem(str(folder), f"unknown {noun} '{name}'", do=nearest_word(name, entries)))
    return entries[name]


def _list_files(root: Path, problems: list[Problem]) -> dict[str, list[Path]]:
    """The catalog's files by what they are: sources, variants, inputs of variants."""
    found: dict[str, list[Path]] = {"sources": [], "variants": [], "inputs": []}
    if not (root / "sources").is_dir():
        problems.append(Problem(str(root), "it holds no folder 'sources'", "sources/*.toml and variants/*.toml", "name another folder"))
        return found
    for path in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        if path.name not in ("sources", "variants"):
            problems.append(Problem(str(path), "it is no part of a catalog", "sources, variants", "move it away"))
            continue
        for file in sorted(file for file in path.iterdir() if not file.name.startswith(".")):
            if file.suffix == ".toml" and _NAME.fullmatch(file.stem):
                found[path.name].append(file)
            elif file.suffix in _INPUTS and (path.name == "variants" or file.suffix != ".csv"):
                found["inputs"].append(file)
            else:
                problems.append(Problem(str(file), "unexpected file", "NAME.toml, in lower case", "rename it or move it away"))
    return found


def _read_table(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_bytes().decode(), parse_float=Decimal)
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror}", do="mend its permissions"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problems.append(Problem(str(path), f"not a TOML file: {error}", do="mend the file"))
    return None


def _validate_table(model: type[Entry], table: Mapping[str, Any], path: Path, problems: list[Problem]) -> Entry | None:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems += validation_problems(error, str(path), {"": model.model_fields, "mirrors": Mirror.model_fields})
        return None


def _read_source(path: Path, problems: list[Problem]) -> Source | None:
    table = _read_table(path, problems)
    if table is None:
        return None
    if "name" in table:
        problems.append(Problem(str(path), "unknown field 'name'", do="leave it out: the file's stem is the name", key="name"))
    names = table.get("class_names")
    if isinstance(names, str):
        try:
            table["class_names"] = json.loads((path.parent / names).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
            problems.append(Problem(str(path), f"cannot read '{names}': {reason}", "a JSON array of names", "mend it", key="class_names"))
            return None
    return _validate_table(Source, table | {"name": path.stem}, path, problems)


def _read_grid(path: Path, sources: Mapping[str, Source | None], problems: list[Problem]) -> Iterator[Variant]:
    """The variants of a file, in its order; what is wrong joins `problems`."""
    table = _read_table(path, problems)
    if table is None:
        return
    grid, stated = _validate_table(Grid, table, path, problems), table.get("source")
    if isinstance(stated, str) and stated and stated not in sources:
        problems.append(Problem(str(path), f"unknown source '{stated}'", do=nearest_word(stated, sources), key="source"))
    source = sources.get(str(stated))
    names = source.class_names if source else ("unknown",)
    for number, ladder in enumerate(grid.ladder) if grid else _salvage_ladders(table.get("ladder")):
        found = list(_check_ladder(ladder, names, path))
        problems += [replace(problem, key=f"ladder.{number}.{problem.key.rpartition('.')[2]}".rstrip(".")) for problem in found]
        if grid and not found:
            yield from _expand_ladder(ladder, grid.source, names, path)


def _salvage_ladders(stated: object) -> Iterator[tuple[int, Ladder]]:
    """The ladders of a broken file that can be read but for ratios and seeds, so that one mistake hides no other."""
    for number, ladder in enumerate(stated if isinstance(stated, list) else []):
        with suppress(ValidationError):
            yield number, Ladder.model_validate({**(ladder if isinstance(ladder, dict) else {}), "ratios": ["0"], "seeds": [0]})


def _check_ladder(ladder: Ladder, names: Iterable[str], path: Path) -> Iterator[Problem]:
    from corruptkit.corruptions import KINDS
    from corruptkit.recipe import parse_recipe

    if ladder.kind not in KINDS:
        yield Problem(str(path), f"unknown kind '{ladder.kind}'", do=nearest_word(ladder.kind, KINDS), key="kind")
        return
    own = Ladder.model_fields.keys() | KINDS[ladder.kind].model_fields.keys() - {"ratio"}
    unknown = [field for field in ladder.model_extra or {} if field not in own]
    for field in unknown:
        yield Problem(str(path), f"unknown field '{field}'", do=nearest_word(field, own), key=field)
    if not unknown:
        try:
            # One rung stands for all: the ratios and seeds themselves are checked already.
            parse_recipe({"seed": ladder.seeds[0], "chain": [name_classes(ladder.stage(ladder.ratios[0]), names)]}, str(path), path.parent)
        except CatalogError as error:
            yield from error.problems


def _expand_ladder(ladder: Ladder, source: str, names: Iterable[str], path: Path) -> Iterator[Variant]:
    from corruptkit.recipe import name_variant

    for ratio in ladder.ratios:
        stage = name_classes(ladder.stage(ratio), names)
        for seed in ladder.seeds:
            yield Variant(name=name_variant(source, stage, seed, ladder.name or ""), source=source, seed=seed, chain=(stage,), file=path)


def _digest_files(root: Path, paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes in ascending order of names, each preceded by its length."""
    digest = hashlib.sha256()
    names = {path.relative_to(root).as_posix(): path for path in paths}
    for name in sorted(names):
        for part in (name.encode(), names[name].read_bytes()):
            digest.update(len(part).to_bytes(4, "little") + part)
    return digest.hexdigest()
