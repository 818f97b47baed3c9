"""Data sets that are in memory already, corrupted as files of the same rows would be; a file a kind of object."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

from corruptkit.errors import CatalogError, CorruptkitError, DatasetError, Problem
from corruptkit.memory import frames, hub, items, tables
from corruptkit.memory.tables import How, check_how
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import Recipe


class Kind(NamedTuple):
    """How one kind of object is read and edited."""

    read: Callable[[Any, How], Any]
    edit: Callable[[Any, Any, Plan], Any]


_ITEMS = Kind(items.read_items, items.edit_items)
# By the package and the name of a class, so that no package is imported to look for its objects.
_KINDS = {
    ("datasets", "Dataset"): Kind(hub.read_dataset, hub.edit_dataset),
    ("datasets", "IterableDataset"): Kind(hub.read_stream, hub.edit_stream),
    ("polars", "DataFrame"): Kind(frames.read_frame, frames.edit_frame),
    ("pyarrow", "Table"): Kind(tables.read_table, tables.edit_table),
}
_FLAG = re.compile(r"--([a-z]+(?:-[a-z]+)*)(?: (exclude|eligible)\b)?")
_ADVICE = {
    ("corruptkit", "Dataset"): "call its with_recipe(recipe)",
    ("datasets", "DatasetDict"): "pick a split, such as splits['train']",
    ("datasets", "IterableDatasetDict"): "pick a split, such as splits['train']",
    ("polars", "LazyFrame"): "collect() it, or open its file with open_dataset",
    ("pandas", "DataFrame"): "convert it with pyarrow.Table.from_pandas",
}


def corrupt(data: Any, recipe: Recipe, *, epoch: int | None = None, **how: Unpack[How]) -> Any:
    """The data set with the edits that files of its rows would get: of the same type, in the same order, its images untouched.

    Takes a `datasets.Dataset` or `IterableDataset`, a table of polars or pyarrow, and map-style data sets of tuples or dictionaries,
    of which a map-style object comes back. With an epoch, it is drawn anew for it. What the data set leaves open is stated as
    to `open_dataset`: `key` (a key rule, or the name of a column), `split`, `classes`, `label_column`, `caption_column`,
    `image_column`, `bad`; further `null_label` (a label of K is none) and `strict` (a ratio that cannot be met is an error).

    A stream is read once to plan, without its images unless their paths are the keys, and again whenever its rows are. Items are
    all read once, with their images, unless the object tells its labels in `targets`, `labels` or `samples` and there are no captions.
    """
    with _saying(data):
        kind, how = _find_kind(data), check_how(how)
        held = kind.read(data, how)
        return kind.edit(data, held, _plan_held(held, recipe, epoch, how))


def plan_corruption(data: Any, recipe: Recipe, *, epoch: int | None = None, **how: Unpack[How]) -> Plan:
    """The plan by which `corrupt` edits a data set: its variant_id, its counts and every edit. Takes what `corrupt` takes."""
    with _saying(data):
        kind, how = _find_kind(data), check_how(how)
        return _plan_held(kind.read(data, how), recipe, epoch, how)


@contextmanager
def _saying(data: Any) -> Iterator[None]:
    """What is wrong, in the words of a caller in Python: arguments in the place of flags, the object's type as the source."""
    try:
        yield
    except CorruptkitError as error:
        names = {"source": type(data).__name__}
        problems = (
            replace(p, file=names.get(p.file, p.file), expected=_as_argument(p.expected), do=_as_argument(p.do)) for p in error.problems
        )
        said = [replace(problem, file=problem.file.removeprefix("--")) for problem in problems]
        raise type(error)(*said) from None


def _as_argument(text: str) -> str:
    """Words in which flags are arguments; a command line stays one."""
    return text if "python pipelines/" in text else _FLAG.sub(_name_argument, text)


def _name_argument(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return f"{name}={flag[2]!r}" if flag[2] else name


def _plan_held(held: Any, recipe: object, epoch: int | None, how: How) -> Plan:
    if not isinstance(recipe, Recipe):
        found, do = f"an object of type {type(recipe).__name__}", "build one, or read it with load_recipe(path)"
        raise CatalogError(Problem("recipe", found, "a corruptkit.Recipe", do))
    return make_plan(recipe if epoch is None else recipe.in_epoch(epoch), held.index, strict=how.get("strict", False))


def _find_kind(data: Any) -> Kind:
    for base in type(data).__mro__:
        name = base.__module__.partition(".")[0], base.__name__
        if name in _KINDS:
            return _KINDS[name]
        if name in _ADVICE:
            raise _refusal(data, _ADVICE[name])
    if isinstance(data, Mapping | str | bytes) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise _refusal(data, "open files with open_dataset")
    return _ITEMS


def _refusal(data: Any, do: str) -> DatasetError:
    expected = "a data set of `datasets`, a table of polars or pyarrow, or one with items by number"
    return DatasetError(Problem("corrupt", f"an object of type {type(data).__name__}", expected, do))
