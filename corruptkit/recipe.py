"""A recipe: a seed and a chain of corruptions. SPEC.md sections 1 and 5."""

from __future__ import annotations

import json
import operator
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corruptkit.corruptions import KINDS, Corruption
from corruptkit.corruptions.embeddings import Embeddings, name_embeddings, read_embeddings
from corruptkit.corruptions.fields import CANONICAL, Seed, Where
from corruptkit.draws import Draws
from corruptkit.errors import CatalogError, IntegrityError, Problem, split_message, validation_problems
from corruptkit.manifest import RecipeIdentity


class Recipe(BaseModel):
    """What to do to a source: `Recipe(seed=0, chain=[Swap(ratio="0.05")])`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Seed
    # A plan digest gives a stage one byte.
    chain: Annotated[tuple[Corruption, ...], Field(min_length=1, max_length=256)]

    def identity(self) -> RecipeIdentity:
        """The recipe as it stands in an identity."""
        return RecipeIdentity(seed=self.seed, chain=[corruption.identity() for corruption in self.chain])

    def inputs(self) -> list[bytes]:
        """The canonical content that the identity names by digest: groups, matrices, names, tables, key files."""
        return [content for corruption in self.chain for content in corruption.inputs()]

    def stage_draws(self, stage: int) -> Draws:
        """The draws of a stage."""
        kind = self.chain[stage].kind
        return Draws(self.seed, f"{kind}@{stage}" if stage else kind)

    def in_epoch(self, epoch: int) -> Recipe:
        """The same recipe, drawn anew for an epoch. Raises CatalogError where that is no non-negative integer, or it is drawn for one."""
        if isinstance(epoch, bool) or not hasattr(epoch, "__index__") or epoch < 0:
            raise CatalogError(Problem("epoch", f"found {epoch!r:.80}", "a non-negative integer", "count epochs from 0 on"))
        if ".e" in self.seed:
            raise CatalogError(Problem("epoch", f"found the seed {self.seed!r:.80}", "one without an epoch", "take the recipe as it was"))
        return Recipe(seed=f"{self.seed}.e{operator.index(epoch)}", chain=self.chain)


_FIELDS = {
    "": Recipe.model_fields.keys(),
    "where": Where.model_fields.keys(),
    **{kind: model.model_fields.keys() for kind, model in KINDS.items()},
}


def parse_recipe(table: Mapping[str, Any], file: str, folder: Path | None = None) -> Recipe:
    """Read a recipe from plain values; paths in it are relative to `folder`. Raises CatalogError with every problem."""
    try:
        return Recipe.model_validate(table, context={"folder": folder})
    except ValidationError as error:
        raise CatalogError(*validation_problems(error, file, _FIELDS)) from None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file (TOML; numbers are read as decimals)."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise CatalogError(Problem(str(path), f"cannot be read: {error.strerror}", do="name a recipe file")) from None
    except (ValueError, RecursionError) as error:  # ValueError: broken TOML, no UTF-8, an integer of thousands of digits
        said = "it begins with a byte order mark" if _begins_marked(path) else str(error).split(chr(59))[0]
        raise CatalogError(Problem(str(path), f"not a TOML file: {said}", do="mend the file")) from None
    return parse_recipe(table, str(path), path.parent)


def _begins_marked(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == b"\xef\xbb\xbf"


def name_variant(source: str, stage: Mapping[str, Any], seed: int | str, label: str = "") -> str:
    """The name of a variant of one stage, SOURCE/KIND[-MODE]-RATIO-sSEED, or with a label in place of kind and mode."""
    kind, mode = stage["kind"], stage.get("mode")
    usual = mode in (None, KINDS[kind].model_fields["mode"].default)
    return f"{source}/{label or (kind if usual else f'{kind}-{mode}')}-{stage['ratio']}-s{seed}"


def drops_labels(identity: RecipeIdentity) -> bool:
    """Whether a recipe gives rows the null label K: its variants declare it."""
    return any(stage.get("kind") == "drop" and stage.get("mode") == "label" for stage in identity["chain"])


def load_embeddings(path: Path) -> Embeddings:
    """Read the embeddings that a recipe names by their digest. Raises CatalogError."""
    try:
        return read_embeddings(path)
    except ValueError as error:
        problem = split_message("--embeddings", str(error))
        raise CatalogError(replace(problem, do=problem.do or "mend the file")) from None


def recipe_from_identity(identity: RecipeIdentity, inputs: Mapping[str, bytes | Embeddings], file: str) -> Recipe:
    """The recipe that an identity describes, its content looked up by digest. Raises IntegrityError, CatalogError."""
    try:
        chain = [_restore_stage(entry, inputs, file) for entry in identity["chain"]]
    except (TypeError, ValueError, LookupError, RecursionError):
        found, expected = "a recipe that cannot be read", "every field of a kind, and its content under .corruptkit/inputs"
        raise IntegrityError(Problem(file, found, expected, "do not use it", key="identity.recipe")) from None
    return parse_recipe({"seed": identity["seed"], "chain": chain}, file)


def _restore_stage(entry: Mapping[str, Any], inputs: Mapping[str, bytes | Embeddings], file: str) -> dict[str, Any]:
    stage = {name: _restore_input(name, value, inputs, file) for name, value in entry.items()}
    if stage.get("where") is not None:
        stage["where"] = {name: _restore_input(name, value, inputs, file) for name, value in dict(stage["where"]).items()}
    return stage


def _restore_input(name: str, value: Any, inputs: Mapping[str, bytes | Embeddings], file: str) -> Any:
    """A field's value; content that stands by its digest is a list, whatever it is, and so never taken for a path."""
    if name == "embeddings":
        return inputs.get(value) or name_embeddings(str(value))
    if name not in CANONICAL:
        return value
    content = inputs.get(value)
    if not isinstance(content, bytes):
        raise IntegrityError(
            Problem(file, f"the recipe's {name} {value} is missing", "its content under .corruptkit/inputs", "do not use it")
        )
    text = content.decode()
    found = text.split("\n")[:-1] if name == "keys_file" else json.loads(text)
    return found if isinstance(found, list) else [found]
