"""Rows as Arrow tables, whatever file they lie in: find key, image, label and caption, and check them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.keys import key_fault, make_keyer, strip_suffix
from corruptkit.formats.layout import ROW_FIELDS, SCANNED, Layout, Rejects, Scan, Shard, missing_field

# Where a column is not named by a flag, the first of these that there is.
_USUAL = {"image": ("image", "jpg", "png", "webp"), "label": ("label", "cls"), "caption": ("caption", "text", "txt")}
_TEXTS = (pa.string(), pa.large_string())
_FAULT = r"^$|[\x00-\x1f\x{7f}-\x{9f}]|^/|(^|/)\.\.(/|$)"


class Fields(NamedTuple):
    """Which column of a schema holds what, "" where none does; `key` names a column, or the path of the image is the key's source."""

    key: str
    image: str
    label: str
    caption: str
    others: tuple[str, ...]
    hidden: tuple[str, ...]  # columns whose names rows have for others

    def needed(self, schema: pa.Schema) -> list[str]:
        """The columns that an index is made of: an image's path without its bytes."""
        path = [f"{self.image}.path"] if not self.key and has_path(schema, self.image) else []
        return [name for name in (self.key, self.label, self.caption) if name] + path


def default_rule(schema: pa.Schema, *, paths: bool) -> str:
    """The key rule of a table that nobody states: a column of keys, else the paths of its images, else nothing but the order."""
    named = next((name for name in ("key", "__key__") if name in schema.names), "")
    return f"column:{named}" if named else "path" if paths else "ordinal"


def find_fields(schema: pa.Schema, layout: Layout, file: str) -> Fields:
    """The columns that a layout names, or the usual ones. Raises DatasetError where one is absent or of an unfit type."""
    rule = layout.key_rule
    key = "key" if layout.key_encoding == "column" else rule.removeprefix("column:") if rule.startswith("column:") else ""
    named = {"key": key, "image": layout.columns.image, "label": layout.columns.label, "caption": layout.columns.caption}
    found = {}
    for field, name in named.items():
        if name and name not in schema.names:
            do = f"name one of: {', '.join(schema.names[:12])}"
            raise DatasetError(Problem(file, f"no column '{name}'", f"the column of the {field}s", do))
        found[field] = name or _usual_column(schema, field)
    found["image"] = layout.columns.image or find_image(schema)
    for field in ("key", "label", "caption", "image"):
        _check_type(schema, found[field], field, file)
    others = [name for name in schema.names if name not in found.values()]
    hidden = tuple(name for name in others if name in ROW_FIELDS)
    return Fields(**found, others=tuple(name for name in others if name not in hidden), hidden=hidden)


def check_names(fields: Iterable[pa.Field], file: Path) -> None:
    """Refuse a schema in which a name says not which column is meant, at any depth."""
    held = list(fields)
    names = [field.name for field in held]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DatasetError(Problem(str(file), f"two columns '{twice[0]}'", "one column of each name", "rename one of them"))
    for field in held:
        check_names((field.type.field(number) for number in range(field.type.num_fields)), file)


def _usual_column(schema: pa.Schema, field: str) -> str:
    return next((usual for usual in _USUAL.get(field, ()) if usual in schema.names), "")


def find_image(schema: pa.Schema) -> str:
    """The column of images where none is named: the usual one, else the first that holds bytes and a path."""
    usual = [name for name in _USUAL["image"] if name in schema.names and _image_type(schema.field(name).type)]
    return next((name for name in (*usual, *schema.names) if name in usual or has_path(schema, name)), "")


def has_path(schema: pa.Schema, image: str) -> bool:
    """Whether a column holds images as `datasets` writes them: bytes and a path."""
    kind = schema.field(image).type if image else None
    return kind is not None and pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _image_type(kind: pa.DataType) -> bool:
    names = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or "bytes" in names


def _check_type(schema: pa.Schema, name: str, field: str, file: str) -> None:
    if not name:
        return
    kind = schema.field(name).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    fits = {
        "key": plain in _TEXTS or pa.types.is_integer(plain),
        "label": pa.types.is_integer(plain),
        "caption": plain in _TEXTS,
        "image": _image_type(plain),
    }[field]
    if not fits:
        expected = {"key": "text or integers", "label": "integers", "caption": "text", "image": "bytes, alone or with a path"}[field]
        do = f"cast the column, or name another --{field}-column" if field != "key" else "mend the --key rule"
        raise DatasetError(Problem(file, f"the column '{name}' is of type {kind}", expected, do))


class Conditions(NamedTuple):
    """What a piece of a table says of its rows; a key that cannot be is null, and `faults` says why by row."""

    keys: pa.Array
    labels: Any  # int64, -1: none
    captions: pa.Array
    faults: dict[int, DatasetError]


def read_conditions(table: pa.Table, fields: Fields, shard: Shard, first: int) -> Conditions:
    """Key, label and caption of each row of a piece; `first` is the number of its first row among the rows of the data set."""
    faults: dict[int, DatasetError] = {}
    captions = _read_captions(table, fields, shard, faults)
    labels = _read_labels(table, fields, shard, faults)
    keys = read_keys(table, fields, shard, first, faults)
    for field in shard.layout.needed:
        lacks = labels < 0 if field == "label" else np.asarray(pc.is_null(captions))
        for row in np.flatnonzero(lacks).tolist():
            faults.setdefault(row, missing_field(shard, field, str(keys[row].as_py() or f"row {row}")))
    return Conditions(keys, labels, captions, faults)


def _bad(shard: Shard, found: str, expected: str, key: str = "") -> DatasetError:
    return DatasetError(Problem(str(shard.file), found, expected, "mend the row, or leave such rows out with --bad exclude", key=key))


def _no_image(shard: Shard, key: str) -> DatasetError:
    do = "store the images' bytes in the file, or leave such rows out with --bad exclude"
    return DatasetError(Problem(str(shard.file), "an image without bytes", "an image in every row", do, key=key))


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _read_texts(column: pa.ChunkedArray, shard: Shard, what: str, faults: dict[int, DatasetError]) -> pa.Array:
    """A column of text, checked to be UTF-8: nothing that wrote the file need have looked."""
    texts = one_array(column)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        raw = texts.view(pa.binary() if texts.type == pa.string() else pa.large_binary()).to_pylist()
        sound = [_decode(row, value, shard, what, faults) for row, value in enumerate(raw)]
        texts = pa.array(sound, pa.large_string())
    return texts.cast(pa.large_string())


def _decode(row: int, value: bytes | None, shard: Shard, what: str, faults: dict[int, DatasetError]) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        faults[row] = _bad(shard, f"a {what} that is not UTF-8 at byte {error.start}", "text in UTF-8", f"row {row}")
        return None


def _read_captions(table: pa.Table, fields: Fields, shard: Shard, faults: dict[int, DatasetError]) -> pa.Array:
    if not fields.caption:
        return pa.nulls(len(table), pa.large_string())
    return _read_texts(table[fields.caption], shard, "caption", faults)


def _read_labels(table: pa.Table, fields: Fields, shard: Shard, faults: dict[int, DatasetError]) -> Any:
    if not fields.label:
        return np.full(len(table), -1, np.int64)
    column = one_array(table[fields.label])
    try:
        labels = pc.fill_null(column.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        raise _bad(shard, f"labels in '{fields.label}' above 2^63", "labels below the number of classes") from None
    negative = (labels < 0) & np.asarray(pc.is_valid(column))
    for row in np.flatnonzero(negative).tolist():
        faults[row] = _bad(shard, f"the label {labels[row]}", "a label as a non-negative integer", f"row {row}")
    return np.where(negative, -1, labels)


def read_keys(table: pa.Table, fields: Fields, shard: Shard, first: int, faults: dict[int, DatasetError]) -> pa.Array:
    """The keys of a piece's rows, null where there is none; `faults` says what is wrong with them."""
    rule = shard.layout.key_rule
    if fields.key:
        column = table[fields.key]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        keys = one_array(column).cast(pa.large_string()) if pa.types.is_integer(kind) else _read_texts(column, shard, "key", faults)
    elif rule == "ordinal":
        keys = pa.array([f"row-{first + row:012d}" for row in range(len(table))], pa.large_string())
    else:
        keys = _path_keys(image_paths(table, fields, shard, faults), rule, shard, faults)
    return _check_keys(keys, shard, faults)


def image_paths(table: pa.Table, fields: Fields, shard: Shard, faults: dict[int, DatasetError]) -> pa.Array:
    """The path of each row's image, null where there is none, or none that is text."""
    kind = table.schema.field(fields.image).type if fields.image in table.column_names else None
    if kind is None or not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return pa.nulls(len(table), pa.large_string())
    return _read_texts(pc.struct_field(table[fields.image], "path"), shard, "path", faults)


def _path_keys(paths: pa.Array, rule: str, shard: Shard, faults: dict[int, DatasetError]) -> pa.Array:
    keyer, name, keys = make_keyer(rule, str(shard.file)), shard.name, list[str | None]()
    for row, path in enumerate(paths.to_pylist()):
        try:
            keys.append(None if path is None else keyer(strip_suffix(path), name, 0))
        except DatasetError as error:
            faults.setdefault(row, error)
            keys.append(None)
    return pa.array(keys, pa.large_string())


def _check_keys(keys: pa.Array, shard: Shard, faults: dict[int, DatasetError]) -> pa.Array:
    wrong = pc.fill_null(pc.match_substring_regex(keys, _FAULT), True)
    for row in np.flatnonzero(np.asarray(wrong)).tolist():
        key = keys[row].as_py()
        found = "no key" if key is None else key_fault(key)
        faults.setdefault(row, _bad(shard, found, "a key as SPEC.md section 1 allows it", key or f"row {row}"))
    return keys


def lacks_bytes(column: pa.ChunkedArray | pa.Array) -> Any:
    """Where a column of bytes, or of images, holds none; of the bytes themselves nothing is read."""
    return np.asarray(pc.is_null(pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column))


def needs_images(fields: Fields, shard: Shard) -> bool:
    """Whether a row without an image is a bad one: in tables, but not in those that were made of samples without images."""
    return bool(fields.image) and shard.layout.key_encoding == "source"


def scan_tables(tables: Iterable[pa.Table], fields: Fields, shard: Shard, schema: pa.Schema, empty: Any, *, exclude: bool) -> Scan:
    """A shard's rows of the index from the pieces of its table; lengths and offsets are 0.

    `empty` holds the ascending positions of rows whose images hold no bytes.
    """
    rejects, digest = Rejects(exclude=exclude), xxh3_64()
    pieces, position = [SCANNED.empty_table()], 0
    first = shard.first_row
    for table in tables:
        found = read_conditions(table, fields, shard, first)
        for row in (empty[slice(*np.searchsorted(empty, (position, position + len(table))))] - position).tolist():
            found.faults.setdefault(row, _no_image(shard, str(found.keys[row].as_py() or f"row {position + row}")))
        for row, error in sorted(found.faults.items()):
            if position + row not in shard.skip:
                rejects(position + row, error)
        places = np.arange(position, position + len(table))
        zeros = np.zeros(len(table), np.int64)
        columns = [found.keys, pa.array(places), pa.array(zeros), pa.array(zeros), pa.array(found.labels), found.captions]
        out = {*found.faults, *(place - position for place in shard.skip)}
        piece = pa.table(columns, schema=SCANNED)
        pieces.append(piece.filter(pa.array([row not in out for row in range(len(table))])) if out else piece)
        digest.update(_bytes_of(pieces[-1]))
        position += len(table)
        first += len(pieces[-1])
    kinds = tuple(f"{name}: {schema.field(name).type}" for name in fields.others)
    digest.update("\0".join(kinds).encode())
    images = ("",) if fields.image else ()
    return Scan(pa.concat_tables(pieces), tuple(rejects.found), digest.hexdigest(), fields.others, images, fields.hidden)


def _bytes_of(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names of the classes that `datasets` keeps in a schema's metadata; none where there are none."""
    name = label or next((usual for usual in _USUAL["label"] if usual in schema.names), "")
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][name]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(text, str) for text in names) else ()
