"""Writes docs/runs.md, every field of a run file, from the models that read it: `python docs/make_runs.py`.

What a field means is the comment beside it in the code. A test fails where the page is stale.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from corruptkit_train.autoencoder_training import AutoencoderRun
from corruptkit_train.config import ExpectedConfig, RunConfig, presets
from corruptkit_train.latents import LatentConfig
from corruptkit_train.models import Model
from corruptkit_train.objectives import Objective, Schedule
from corruptkit_train.perturbation import Perturbation

_HEADER = """# Run files

Made from the code by `python docs/make_runs.py`; do not edit. A run is a TOML file: `corruptkit-train run RUN.toml --data DATA --out DIR`.
[training.md](training.md) says what a run does. These ship, and go by their name in place of a file: {presets}; for
`corruptkit-train autoencoder`, whose files are at the end, {autoencoders}.

`--set a.b=value` changes a field of the file (the value is TOML, or text without quotes), and can be given often:
`--set optimiser.rate=3e-4 --set 'perturbation=[{{kind="cep"}}]' --set perturbation.0.gamma=0.5`. What was resolved stands in the run's
`run.json`, which may be named in place of a TOML file. Everything but `images`, `[machine]` and `[[expected]]` is the run's identity, whose
SHA-256 stands in every checkpoint: under another identity, a folder's run is not resumed.
"""
# What the comment beside a field leaves to its name.
_OBVIOUS = {
    "seed": "of every draw: order, crops, times, noises, dropout, perturbation, first weights",
    "kind": "which one",
    "name": "of the sampler: eps and v take the first two, a flow the first and the last",
    "steps": "of the sampler",
    "preset": "short for fields, and fields beside it win: ",
}


def write_page() -> str:
    """The whole page."""
    parts = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    sections: list[tuple[str, type[BaseModel]]] = [("The file", RunConfig), ("[data]", parts["data"])]
    sections += [("[latents]", LatentConfig), ("[condition]", parts["condition"])]
    sections.append(("[condition.encoder]", parts["condition"].model_fields["encoder"].annotation))
    for title, union in (("[[perturbation]]", Perturbation), ("[model]", Model), ("[objective]", Objective)):
        models = get_args(get_args(union)[0])
        sections += [(f'{title} kind = "{model.model_fields["kind"].default}"', model) for model in models]
    sections.append(("[objective.schedule]", Schedule))
    sections += [(f"[{name}]", parts[name]) for name in ("optimiser", "average", "sampler", "machine")]
    sections.append(("[[expected]]", ExpectedConfig))
    sections.append(("Files of `corruptkit-train autoencoder`", AutoencoderRun))
    own = {name: field.annotation for name, field in AutoencoderRun.model_fields.items()}
    sections += [(f"[{name}] of an autoencoder", own[name]) for name in ("network", "loss", "machine")]
    shipped = {word: ", ".join(f"`{name}`" for name in presets(word)) for word in ("", "autoencoder")}
    header = _HEADER.format(presets=shipped[""], autoencoders=shipped["autoencoder"])
    return "\n".join([header, *(line for title, model in sections for line in _write_section(title, model))])


def _write_section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{' '.join((inspect.getdoc(model) or '').split())}\n"
    yield "| field | value | default | what |"
    yield "|---|---|---|---|"
    said = dict(pair for part in reversed(model.__mro__) if issubclass(part, BaseModel) for pair in _read_comments(part))
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _show_value(field.get_default(call_default_factory=True))
        names = ", ".join(f"`{preset}`" for preset in getattr(model, "presets", {}))
        what = _OBVIOUS[name] + names if name == "preset" else said.get(name) or _OBVIOUS.get(name, "")
        cells = (f"`{name}`", _show_type(schema["properties"][name]), default, what)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    yield ""


def _read_comments(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The comment behind each field, as it stands in the code."""
    if model is BaseModel:
        return
    text = textwrap.dedent(inspect.getsource(model))
    lines = text.splitlines()
    (body,) = (node.body for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            rest = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode()
            _, mark, comment = rest.partition("# ")
            if mark:
                yield node.target.id, comment.strip()


def _show_value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "its fields' own"
    if value is None:
        return "none"
    return f"`{json.dumps(value)}`"


def _show_type(schema: dict[str, Any]) -> str:
    """A value in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_show_type(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return " | ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = schema.get("prefixItems")
        return f"[{', '.join(map(_show_type, items))}]" if items else f"list of {_show_type(schema['items'])}"
    words = {"integer": "whole number", "number": "number", "boolean": "`true` | `false`", "string": "text"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]:,}".removesuffix(".0") for name, sign in signs.items() if name in schema]
    return " ".join([words.get(schema.get("type", ""), "table"), ", ".join(limits)]).strip()


if __name__ == "__main__":
    (Path(__file__).parent / "runs.md").write_text(write_page(), encoding="utf-8")
