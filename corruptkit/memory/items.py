"""Map-style data sets, as torch's loaders take them: items by number, each a tuple or a dictionary."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corruptkit.errors import CatalogError, DatasetError, Problem
from corruptkit.formats.conditions import FieldName
from corruptkit.formats.layout import changed_source
from corruptkit.index import Index
from corruptkit.memory.tables import Held, How, find_places, key_names, named_columns, pack_values, read_pieces, wanted_names, whole_number
from corruptkit.plan import Plan

Place = int | str  # of a value in an item: its number in a tuple, its name in a dictionary


class Known(NamedTuple):
    """What an object tells of its items beside them."""

    labels: Sequence[int] | None = None
    paths: Sequence[str] | None = None
    classes: int | None = None
    transform: Callable[[Any], Any] | None = None  # what it makes of a label that it gives


class Shape(NamedTuple):
    """Where items hold label and caption; None where they hold none."""

    label: Place | None
    caption: Place | None


@dataclass(frozen=True)
class HeldItems:
    """What is known of a map-style data set."""

    held: Held
    shape: Shape
    known: Known

    @property
    def index(self) -> Index:
        """The index of the rows."""
        return self.held.index


def read_items(items: Any, how: How) -> HeldItems:
    """The index of a map-style data set: from its `targets` or `labels`, and `samples`, where items tell no more; else of every item."""
    name = type(items).__name__
    known = _find_known(items)
    first = _first_item(items, name)
    shape = _find_shape(first, known, how, name)
    own = isinstance(first, Mapping) and any(key in first for key in key_names(how))
    told = shape.caption is None and known.labels is not None and shape.label is not None and not own
    rows = _known_rows(known) if told else _item_rows(items, shape, known, name)
    asked = how if isinstance(first, Mapping) else _unnamed(how)
    table = pack_values(rows, wanted_names(asked), name)
    held = read_pieces(name, table.schema, lambda _: [table], asked, classes=known.classes)
    return HeldItems(held, shape, known)


def _first_item(items: Any, name: str) -> Any:
    """An item, to see what they are; None where there are none. One image is read for it."""
    do = "wrap the data set so that it gives those"
    try:
        first = items[0] if len(items) else None
    except (KeyError, TypeError, IndexError):
        raise DatasetError(Problem(name, "no item 0", "items by number, from 0 on", do)) from None
    if first is None or isinstance(first, Mapping | tuple | list):
        return first
    found = f"items of type {type(first).__name__}"
    raise DatasetError(Problem(name, found, "tuples (image, label) or dictionaries", do))


def _find_known(items: Any) -> Known:
    inner, numbers = getattr(items, "dataset", None), getattr(items, "indices", None)
    if inner is not None and numbers is not None:  # a torch Subset
        known = _find_known(inner)
        labels, paths = ([column[n] for n in numbers] if column is not None else None for column in (known.labels, known.paths))
        return known._replace(labels=labels, paths=paths)
    samples = getattr(items, "samples", None)
    files = samples if isinstance(samples, list) and samples and isinstance(samples[0], tuple) else []
    labels = next((found for name in ("targets", "labels") if _is_column(found := getattr(items, name, None), items)), None)
    if labels is None and files:
        labels = [sample[1] for sample in files]
    classes = getattr(items, "classes", None)
    return Known(
        None if labels is None else np.asarray(labels).tolist(),
        _relative_paths(items, [os.fspath(sample[0]) for sample in files]) if files else None,
        len(classes) if isinstance(classes, list | tuple) and classes else None,
        getattr(items, "target_transform", None),
    )


def _is_column(labels: Any, items: Any) -> bool:
    """Whether an attribute is a label for each item: a list, an array or a tensor of integers."""
    if labels is None or callable(labels) or not hasattr(labels, "__len__") or isinstance(labels, str | Mapping):
        return False
    return len(labels) == len(items) and (not len(labels) or whole_number(labels[0]) is not None)


def _relative_paths(items: Any, files: list[str]) -> list[str] | None:
    """The paths of images from the folder that the classes lie in."""
    root = getattr(items, "split_folder", None) or getattr(items, "root", None)
    if not isinstance(root, str | os.PathLike):
        return None
    below = os.path.join(os.fspath(root), "")  # noqa: PTH118 - a Path would mend names that are compared as they stand
    if not all(file.startswith(below) for file in files):
        return None
    return [file.removeprefix(below).replace(os.sep, "/") for file in files]


def _find_shape(first: Any, known: Known, how: How, name: str) -> Shape:
    """Where the first item holds label and caption, unless they are named."""
    columns = named_columns(how)
    if isinstance(first, Mapping):
        label, caption = (
            next((n for n in ([named] if named else usual) if named or n in first), None)
            for named, usual in ((columns.label, ("label", "cls")), (columns.caption, ("caption", "text", "txt")))
        )
        return Shape(label, caption)
    values = list(first or ())
    numbers = [place for place, value in enumerate(values) if whole_number(value) is not None]
    texts = [place for place, value in enumerate(values) if isinstance(value, str)]
    if known.labels is not None and len(values) > 1:
        numbers = numbers or [1]  # as torchvision gives (image, target), whatever a transform made of the target
    return Shape(
        _named_place(columns.label, values, name) if columns.label else next(iter(numbers), None),
        _named_place(columns.caption, values, name) if columns.caption else next(iter(texts), None),
    )


def _named_place(named: str, values: list[Any], name: str) -> int:
    if not named.isdecimal() or int(named) >= len(values):
        found, expected = f"no place '{named}' in tuples of {len(values)}", f"a number below {len(values)}"
        raise CatalogError(Problem(name, found, expected, "name the place of the field, such as '1'"))
    return int(named)


def _unnamed(how: How) -> How:
    """The same of tuples, whose places have become columns of the usual names."""
    columns = named_columns(how)
    return {**how, "label_column": "label" if columns.label else "", "caption_column": "caption" if columns.caption else ""}


def _known_rows(known: Known) -> Iterator[dict[str, Any]]:
    assert known.labels is not None, "asked for labels only where there are some"
    for label, path in zip(known.labels, known.paths or repeat(None), strict=False):
        yield {"label": label} | ({"image": {"path": path}} if path is not None else {})


def _item_rows(items: Any, shape: Shape, known: Known, name: str) -> Iterator[Mapping[Any, Any]]:
    """The conditions of every item, which reads its image with it; its label before a transform, where the object tells it."""
    for number in range(len(items)):
        item = items[number]
        if isinstance(item, Mapping) and isinstance(shape.label if shape.caption is None else shape.caption, int):
            raise _other_shape(f"{name}, item {number}")
        row: dict[Place, Any] = dict(item) if isinstance(item, Mapping) else _tuple_row(item, shape, f"{name}, item {number}")
        if known.labels is not None and shape.label is not None:
            row[shape.label if isinstance(item, Mapping) else "label"] = known.labels[number]
        if known.paths is not None:
            row["image"] = {"path": known.paths[number]}
        yield row


def _tuple_row(item: Any, shape: Shape, where: str) -> dict[Place, Any]:
    places: dict[Place, Place | None] = {"label": shape.label, "caption": shape.caption}
    try:
        return {field: item[place] for field, place in places.items() if isinstance(place, int)}
    except (IndexError, TypeError):
        raise _other_shape(where) from None


def _other_shape(where: str) -> DatasetError:
    return DatasetError(Problem(where, "an item of another shape than item 0", "tuples of one length or dictionaries", "mend the data set"))


@dataclass(frozen=True)
class CorruptedItems:
    """The items of a map-style data set with other labels or captions; images and everything else are the data set's own.

    Attributes such as `targets` are not passed on: they tell the clean labels.
    """

    items: Any
    edits: Mapping[int, Mapping[Place, tuple[FieldName, str, str]]]  # by number and place: field, old and new value
    transform: Callable[[Any], Any] | None = None  # what the data set makes of its labels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self._edit(self.items[number], int(number))

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        many = getattr(self.items, "__getitems__", None)
        found = many(numbers) if many is not None else [self.items[number] for number in numbers]
        return [self._edit(item, int(number)) for item, number in zip(found, numbers, strict=True)]

    def _edit(self, item: Any, number: int) -> Any:
        edit = self.edits.get(number % len(self.items))
        if edit is None:
            return item
        values = {place: self._new_value(item[place], number, *change) for place, change in edit.items()}
        if isinstance(item, Mapping):
            return {**item, **values}
        kept = [values.get(place, value) for place, value in enumerate(item)]
        if isinstance(item, list):
            return kept
        return type(item)(*kept) if hasattr(item, "_fields") else tuple(kept)

    def _new_value(self, found: Any, number: int, field: FieldName, old: str, new: str) -> Any:
        if field == "label" and self.transform is not None:
            return self.transform(int(new))
        told = found if field == "caption" else whole_number(found)
        if str(told) != old:
            raise changed_source(Path(type(self.items).__name__), f"item {number}", f"the {field} {found!r:.80}", f"{old!r:.80}")
        return new if field == "caption" else _as_before(found, int(new))


def _as_before(found: Any, label: int) -> Any:
    """A label of the type that items have, so that loaders can stack it with others: a tensor, one of NumPy's integers, an integer."""
    try:
        if hasattr(found, "new_tensor"):
            return found.new_tensor(label)
        return found.dtype.type(label) if hasattr(found, "dtype") else label
    except (OverflowError, RuntimeError):
        wide = f"the class {label}, in an item whose label is of type {found.dtype}"
        raise DatasetError(Problem("corrupt", wide, "labels that hold every class", "give labels of 64 bits")) from None


def edit_items(items: Any, found: HeldItems, plan: Plan) -> CorruptedItems:
    """The data set with the edits of a plan applied as items are asked for."""
    edits: dict[int, dict[Place, tuple[FieldName, str, str]]] = {}
    composed = plan.composed
    changes = zip(*(composed[name].to_pylist() for name in ("field", "old", "new")), strict=True)
    for number, (field, old, new) in zip(find_places(composed, found.index).tolist(), changes, strict=True):
        place = found.shape.label if field == "label" else found.shape.caption
        assert place is not None, "an edit was planned of a value that items hold"
        edits.setdefault(number, {})[place] = (field, old, new)
    return CorruptedItems(items, edits, found.known.transform)
