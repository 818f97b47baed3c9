"""Conditions of rows in memory as the index that files of the same rows would have, and a plan's edits as cells of columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import index as as_integer
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corruptkit.corruptions.rows import Ints
from corruptkit.errors import CatalogError, DatasetError, Problem, nearest_word
from corruptkit.formats.conditions import FIELDS, Columns, FieldName
from corruptkit.formats.editing import set_cells, too_narrow
from corruptkit.formats.keys import RULES, check_rule
from corruptkit.formats.layout import Layout, Shard
from corruptkit.formats.splits import asked_split, stated_split
from corruptkit.formats.table import Fields, check_names, class_names, default_rule, find_fields, find_image, has_path, scan_tables
from corruptkit.index import Index, ShardStat, list_excluded, make_index
from corruptkit.plan import Plan

_FOLDER = r"^(?:/|[A-Za-z][A-Za-z0-9+.-]*://)(?s:.*)/|^/"  # of an absolute path, or of a URL
_CANDIDATES = ("label", "cls", "caption", "text", "txt", "image", "jpg", "png", "webp")


class How(TypedDict, total=False):
    """What a data set leaves open, as `open_dataset` takes it.

    `key` is a key rule or a column; with `null_label`, a label of K is none; with `strict`, a ratio that cannot be met is an error.
    """

    key: str | None
    split: str | None
    classes: int | None
    null_label: bool
    label_column: str
    caption_column: str
    image_column: str
    bad: Literal["refuse", "exclude"]
    strict: bool


_KINDS = {"classes": "a non-negative integer", "null_label": "True or False", "strict": "True or False"}  # the others are texts


def check_how(how: How) -> How:
    """What was stated, of the types that it must have. Raises CatalogError: a word that is not known would change nothing, silently."""
    given: dict[str, Any] = dict(how)
    for name, value in how.items():
        expected = _KINDS.get(name, "a text")
        if name not in How.__annotations__:
            raise CatalogError(Problem(name, f"unknown argument '{name}'", do=nearest_word(name, How.__annotations__)))
        if value is None and name in ("key", "split", "classes"):
            continue
        number = whole_number(value) if name == "classes" else None
        if not (isinstance(value, bool if name in _KINDS else str) if name != "classes" else number is not None and number >= 0):
            raise CatalogError(Problem(name, f"found {value!r:.80}", expected, "mend the argument"))
        given[name] = value if number is None else number
    return given  # type: ignore[return-value]


@dataclass(frozen=True)
class Held:
    """What is known of a data set in memory: its index, what its columns hold, and how keys are found."""

    index: Index
    fields: Fields
    shard: Shard  # named after the type of the object


# Pieces of the columns that an index needs; images may be there, and of theirs the paths and what is null are read.
ReadPieces = Callable[[Fields], Iterable[pa.Table]]

# For each field that is edited, the positions of the rows, and their new values as text.
Cells = dict[FieldName, tuple[Ints, pa.Array]]


def read_pieces(name: str, schema: pa.Schema, pieces: ReadPieces, how: How, *, split: str = "", classes: int | None = None) -> Held:
    """The index of rows that lie in tables; `split` and `classes` are what the object itself says. Raises DatasetError."""
    check_names(schema, Path(name))
    columns = named_columns(how)
    rule = _asked_rule(how.get("key"), schema.names, name)
    needed = tuple(sorted(field for field in FIELDS if getattr(columns, field)))
    paths = has_path(schema, columns.image if columns.image in schema.names else find_image(schema))
    layout = Layout(rule or default_rule(schema, paths=paths), columns, "parquet", "source", needed)
    fields = find_fields(schema, layout, name)
    slim, empty = _read_slim(pieces(fields), fields)
    if not rule and layout.key_rule == "path" and not _has_first_path(slim, fields):
        layout = layout._replace(key_rule="ordinal")
    shard, exclude = Shard(Path(name), Path(), layout), _excludes(how)
    scan = scan_tables(slim, fields, shard, schema, empty, exclude=exclude)
    stated = how.get("classes")
    index = make_index(
        [scan.table],
        [ShardStat(name=name, bytes=0, mtime_ns=0, rows=len(scan.table), digest=scan.digest)],
        split=asked_split(how.get("split")) or (stated_split(split, name) if split else "train"),
        key_rule=layout.key_rule,
        classes=stated if stated is not None else classes or len(class_names(schema, columns.label)) or None,
        null_label=how.get("null_label", False),
        where="",
        excluded=list_excluded([scan]),
        exclude=exclude,
    )
    return Held(index, fields, shard)


def named_columns(how: How) -> Columns:
    """The columns that are named."""
    return Columns(how.get("label_column", ""), how.get("caption_column", ""), how.get("image_column", ""))


def _excludes(how: How) -> bool:
    bad = how.get("bad", "refuse")
    if bad not in ("refuse", "exclude"):
        raise CatalogError(Problem("bad", f"found '{bad}'", do=nearest_word(bad, ("refuse", "exclude"))))
    return bad == "exclude"


def _asked_rule(key: str | None, columns: list[str], name: str) -> str:
    """The rule that is asked for, "" where none is: a rule of SPEC.md, else the name of a column."""
    if key is None:
        return ""
    rules = RULES["parquet"]
    if key in columns and key not in rules:
        return f"column:{key}"
    if ":" not in key and key not in rules:
        do = nearest_word(key, [*columns, *(rule for rule in rules if ":" not in rule)])
        raise CatalogError(Problem(name, f"no column '{key}'", "a column of keys or a key rule", do, key="key"))
    return check_rule(key, "parquet")


def _read_slim(pieces: Iterable[pa.Table], fields: Fields) -> tuple[list[pa.Table], Ints]:
    """The pieces without the bytes of images, and the positions of rows whose image is null."""
    slim, empty, start = list[pa.Table](), [np.zeros(0, np.int64)], 0
    for piece in pieces:
        slim.append(slim_piece(piece, fields))
        if fields.image and fields.image in piece.column_names:
            empty.append(np.flatnonzero(_lacks_image(piece[fields.image])) + start)
        start += len(piece)
    return slim, np.concatenate(empty)


def slim_piece(piece: pa.Table, fields: Fields) -> pa.Table:
    """What keys and conditions are made of; images are their paths."""
    columns = {name: piece[name] for name in (fields.key, fields.label, fields.caption) if name}
    if not fields.key and fields.image in piece.column_names and has_path(piece.schema, fields.image):
        paths = base_paths(pc.struct_field(piece[fields.image], "path"))
        parts = [pa.StructArray.from_arrays([part], ["path"]) for part in paths.chunks]
        columns[fields.image] = pa.chunked_array(parts, pa.struct([("path", paths.type)]))
    return pa.table(columns or {"": pa.nulls(len(piece))})


def base_paths(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The paths of images, of absolute ones and URLs the base name: where a file lies on one machine names no row."""
    if paths.type not in (pa.string(), pa.large_string()):
        return paths
    return pc.replace_substring_regex(paths, _FOLDER, "")


def base_path(path: str) -> str:
    """The same of one path."""
    return re.sub(_FOLDER, "", path, count=1)


def _lacks_image(images: pa.ChunkedArray) -> Any:
    """Where there is neither an image nor the path of one; of the bytes themselves nothing is read."""
    if not pa.types.is_struct(images.type):
        return np.asarray(pc.is_null(images))
    names = [field.name for field in images.type if field.name in ("bytes", "path")]
    return np.logical_and.reduce([np.asarray(pc.is_null(pc.struct_field(images, name))) for name in names])


def bare_table(table: pa.Table, fields: Fields) -> pa.Table:
    """The columns of keys and conditions, and of images whether they are there and their paths."""
    columns = {name: table[name] for name in (fields.key, fields.label, fields.caption) if name}
    if fields.image:
        images, kind = table[fields.image], table.schema.field(fields.image).type
        inner = pc.struct_field(images, "bytes") if pa.types.is_struct(kind) else images
        marks = pc.if_else(pc.is_null(inner), pa.scalar(None, pa.binary()), pa.scalar(b""))
        bare = {"bytes": marks.combine_chunks()}
        if has_path(table.schema, fields.image):
            bare["path"] = pc.struct_field(images, "path").combine_chunks()
        struct = pa.StructArray.from_arrays(list(bare.values()), list(bare))
        columns[fields.image] = pa.chunked_array([struct])
    return pa.table(columns or {"": pa.nulls(len(table))})


def _has_first_path(slim: list[pa.Table], fields: Fields) -> bool:
    first = next((piece for piece in slim if len(piece)), None)
    column = first[fields.image] if first is not None and fields.image in first.column_names else None
    return column is not None and column[0].as_py()["path"] is not None


def find_places(composed: pa.Table, index: Index) -> Ints:
    """The position of the row of each edit."""
    rows = pc.index_in(composed["key"], value_set=index.column("key")).to_numpy()
    places: Ints = index.numbers("position")[rows] if len(rows) else np.zeros(0, np.int64)
    return places


def find_cells(plan: Plan, index: Index) -> Cells:
    """The cells that a plan edits."""
    composed = plan.composed
    places = find_places(composed, index)
    found: Cells = {}
    for field in FIELDS:
        mine = np.asarray(pc.equal(composed["field"], field))
        if mine.any():
            found[field] = places[mine], composed["new"].filter(pa.array(mine)).combine_chunks()
    return found


def column_of(field: FieldName, fields: Fields) -> str:
    """The column that holds a field."""
    return fields.label if field == "label" else fields.caption


def edit_columns(columns: Mapping[str, pa.ChunkedArray], cells: Cells, held: Held) -> dict[str, pa.ChunkedArray]:
    """Columns with new values in some cells, each of the type it had. Raises DatasetError where that does not hold them."""
    edited = dict(columns)
    for field, (places, values) in cells.items():
        name = column_of(field, held.fields)
        try:
            edited[name] = set_cells(columns[name], places, values)
        except (pa.ArrowInvalid, OverflowError):
            raise too_narrow(name, columns[name].type, field, str(held.shard.file)) from None
    return edited


def edit_table(table: pa.Table, held: Held, plan: Plan) -> pa.Table:
    """A table with the edits of a plan applied; what they do not concern is not copied."""
    cells = find_cells(plan, held.index)
    names = [column_of(field, held.fields) for field in cells]
    for name, column in edit_columns({name: table[name] for name in names}, cells, held).items():
        number = table.column_names.index(name)
        table = table.set_column(number, table.schema.field(number), column)
    return table


def read_table(table: pa.Table, how: How) -> Held:
    """The index of a pyarrow table."""
    return read_pieces("pyarrow.Table", table.schema, lambda fields: [bare_table(table, fields)], how)


def key_names(how: How) -> list[str]:
    """The columns that may hold keys: the one that is named, or the usual ones unless another rule is."""
    key = how.get("key")
    if key is None:
        return ["key", "__key__"]
    return [] if key in RULES["parquet"] or key.startswith("regex:") else [key.removeprefix("column:")]


def wanted_names(how: How) -> list[str]:
    """The names that keys, conditions and images may have in rows that come as dictionaries."""
    return [name for name in dict.fromkeys([*key_names(how), *named_columns(how), *_CANDIDATES]) if name]


def pick_values(row: Mapping[str, Any], names: Iterable[str], where: str) -> Iterator[tuple[str, Any]]:
    """The conditions of a row as plain values: text, integers, and of an image its path. Raises DatasetError on any other."""
    for name in names:
        if name not in row:
            continue
        value = row[name]
        if isinstance(value, Mapping) and "path" in value:
            yield name, {"bytes": b"", "path": value["path"]}
        elif value is None or isinstance(value, str):
            yield name, value
        elif (number := whole_number(value)) is not None:
            yield name, number
        elif name not in ("image", "jpg", "png", "webp"):
            found = f"'{name}' is of type {type(value).__name__}"
            raise DatasetError(Problem(where, found, "an integer or a text", "name other columns, or convert it"))


def whole_number(value: Any) -> int | None:
    """An integer, whoever's type it has; None for anything else, truth values too."""
    try:
        return None if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")) else as_integer(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def pack_values(rows: Iterable[Mapping[str, Any]], names: list[str], where: str) -> pa.Table:
    """Rows that come as dictionaries, as a table of their conditions and of the paths of their images."""
    columns: dict[str, list[Any]] = {}
    count = 0
    for count, row in enumerate(rows, 1):
        for name, value in pick_values(row, names, f"{where}, row {count - 1}"):
            column = columns.setdefault(name, [])
            column += [None] * (count - 1 - len(column)) + [value]
    arrays = {name: _pack_column(name, column + [None] * (count - len(column)), where) for name, column in columns.items()}
    return pa.table(arrays or {"": pa.nulls(count)})


def _pack_column(name: str, values: list[Any], where: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        found, do = f"'{name}' fits no column: {str(error).splitlines()[0]:.80}", "mend the rows"
        raise DatasetError(Problem(where, found, "integers of 64 bits or texts", do)) from None
