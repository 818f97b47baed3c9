"""Folders of images, read only: a folder a class, or a metadata file that lists images with their captions, as `datasets` reads them.

A shard is a folder that holds images, or a metadata file; a class is a folder at the top. Where there are metadata files, they
alone say what the rows are, and folders are no classes.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import FIELDS, Columns, FieldName, RowEdit
from corruptkit.formats.keys import check_key, make_keyer, strip_suffix
from corruptkit.formats.layout import ROW_FIELDS, SCANNED, Rejects, Row, Scan, Shard, Spot, changed_source, missing_field, pack_rows
from corruptkit.formats.webdataset import IMAGE_SUFFIXES, LARGEST_CONDITION

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_USUAL = {"label": ("label",), "caption": ("caption", "text")}


class _File(NamedTuple):
    """An image, its path below the root, and the other columns that a metadata file gives it; or why it is none."""

    path: str
    columns: Mapping[str, Any]
    fault: DatasetError | None = None


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image that a row can be."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in IMAGE_SUFFIXES and "." in name


def find_folders(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The shards below a root, and the names of the classes: ascending bytes, numbered from 0."""
    metadata = sorted(path for name in METADATA for path in root.rglob(name) if path.is_file())
    if metadata:
        return metadata, ()
    classes = sorted((entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."), key=os.fsencode)
    folders = []
    for place, below, names in os.walk(root, followlinks=True):
        below[:] = [name for name in below if name[0] != "."]
        _refuse_loops(Path(place), below, root)
        folders += [Path(place)] if any(map(is_image, names)) else []
    return sorted(folders, key=os.fsencode), tuple(classes)


def _refuse_loops(place: Path, below: list[str], root: Path) -> None:
    """Refuse a link to a folder that it lies in: the images there would be rows once more, under longer and longer keys."""
    for link in filter(Path.is_symlink, (place / name for name in below)):
        target = link.resolve()
        if any(above.resolve().is_relative_to(target) for above in (place, *place.parents) if above.is_relative_to(root)):
            raise DatasetError(Problem(str(link), f"a link to {target}, which it lies in", "folders without a loop", "remove the link"))


def _list_files(shard: Shard) -> list[_File]:
    return _list_images(shard.file, shard.root, shard.file.stat().st_mtime_ns)


@lru_cache(maxsize=2048)
def _list_images(file: Path, root: Path, mtime_ns: int) -> list[_File]:  # noqa: ARG001 - a changed folder is another one
    if file.name in METADATA:
        return [_named_file(file, root, line, row) for line, row in enumerate(_read_metadata(file), 1)]
    paths = (path.relative_to(root).as_posix() for path in file.iterdir() if is_image(path.name) and path.is_file())
    return [_File(path, {}) for path in sorted(paths, key=os.fsencode)]


def _read_metadata(file: Path) -> list[dict[str, Any]]:
    try:
        if file.suffix == ".csv":
            csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CONDITION))  # a caption may be as long here as in a tar
            reader = csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
            _refuse_twice(reader.fieldnames or ())
            rows = list(reader)
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("a row with more or fewer cells than the header")
            return [{name: cell for name, cell in row.items() if cell != "" or name != "label"} for row in rows]
        if file.suffix == ".jsonl":
            return [_load_line(number, line) for number, line in enumerate(file.read_bytes().split(b"\n"), 1) if line.strip()]
        with file.open("rb") as content:
            rows = pq.ParquetFile(content, pre_buffer=False).read(use_threads=False).to_pylist()
            return [{name: cell for name, cell in row.items() if cell is not None} for row in rows]
    except (OSError, ValueError, csv.Error, RecursionError, pa.ArrowException) as error:
        found = f"it cannot be read: {str(error).splitlines()[0]:.100}"
        raise DatasetError(Problem(str(file), found, "a row an image, with its file_name", "mend the file")) from None


def _refuse_twice(names: Sequence[str]) -> None:
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"a header with two columns {twice!r}")


def _load_line(number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is no JSON object")
    return {name: cell for name, cell in row.items() if cell is not None}


def _named_file(file: Path, root: Path, line: int, row: dict[str, Any]) -> _File:
    """The image that a row of a metadata file names, which must lie below the root."""
    name = row.pop("file_name", None)
    found, expected = _name_fault(file, root, name)
    if found:
        return _File("", row, DatasetError(Problem(str(file), found, expected, "mend the metadata file", key=f"row {line}")))
    return _File(file.parent.joinpath(*PurePosixPath(name).parts).relative_to(root).as_posix(), row)


def _name_fault(file: Path, root: Path, name: Any) -> tuple[str, str]:
    """What is wrong with a file_name, and what was expected; nothing where it is sound."""
    if not isinstance(name, str) or not name:
        return "no file_name", "the path of an image in every row"
    parts = PurePosixPath(name).parts
    if "://" in name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        return f"the path {name!r:.80}", "a path below the metadata file"
    path = file.parent.joinpath(*parts)
    # The metadata may be anybody's, a link in the place of an image is the owner's: so caches of the Hub hold their files.
    if not path.parent.resolve().is_relative_to(root.resolve()):
        return f"{name!r:.80} leads out of the folder", "an image below it"
    return ("", "") if path.is_file() else (f"no file {name!r:.80}", "an image that is there")


def find_rule(file: Path) -> str:  # noqa: ARG001 - the signature of every format
    """Images are named by their paths."""
    return "path"


def _name_of(field: FieldName, columns: Columns, row: Mapping[str, Any]) -> str:
    named = columns.label if field == "label" else columns.caption
    return named or next((name for name in _USUAL[field] if name in row), "")


def _key(shard: Shard, found: _File, ordinal: int) -> str:
    if found.fault is not None:
        raise found.fault
    rule = shard.layout.key_rule
    if rule.startswith("column:"):
        value = found.columns.get(rule.removeprefix("column:"))
        if type(value) not in (str, int):
            name = rule.removeprefix("column:")
            raise DatasetError(Problem(str(shard.file), f"no text or integer '{name}'", "a key in every row", "mend --key", key=found.path))
        key = str(value)
    else:
        key = make_keyer(rule, str(shard.file))(strip_suffix(found.path), shard.file.name, ordinal) or ""
    return check_key(key, str(shard.file))


def _conditions(shard: Shard, found: _File, key: str) -> dict[FieldName, str]:
    """Label and caption of an image: from its row of a metadata file, else the class that its folder is."""
    columns, values = shard.layout.columns, dict[FieldName, str]()
    for field in ("label", "caption"):
        name = _name_of(field, columns, found.columns)
        if name in found.columns:
            values[field] = _read_value(shard, field, found.columns[name], key)
    if shard.layout.class_names and "/" in found.path:
        values["label"] = str(shard.layout.class_names.index(found.path.partition("/")[0]))
    for field in shard.layout.needed:
        if field not in values:
            raise missing_field(shard, field, key)
    return values


def _read_value(shard: Shard, field: str, value: Any, key: str) -> str:
    text = str(value)
    if field == "caption":
        if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
            raise DatasetError(Problem(str(shard.file), f"the caption {value!r:.60}", "text", "mend the metadata file", key=key))
    elif isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 18):
        expected = "a label as a non-negative integer"
        raise DatasetError(Problem(str(shard.file), f"the label {value!r:.60}", expected, "mend the metadata file", key=key))
    return text if field == "caption" else str(int(text))


def _check_others(shard: Shard, found: _File, key: str) -> None:
    """Refuse a row whose other columns no variant can hold: Parquet and Arrow have 64 bits for an integer, and UTF-8."""
    for name in _other_columns(shard, found):
        fault = _find_fault([name, found.columns[name]])
        if fault:
            what, expected = f"the column {name!r:.60} holds {fault}", "integers of 64 bits, text in UTF-8"
            do = "mend the row, or leave such rows out with --bad exclude"
            raise DatasetError(Problem(str(shard.file), what, expected, do, key=key))


def _find_fault(value: object) -> str:
    """What in a value of JSON no column can hold, or an empty text."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, int) and not -(2**63) <= part < 2**63:
            return "an integer beyond 64 bits"
        if isinstance(part, str) and not part.isascii() and any("\ud800" <= c <= "\udfff" for c in part):
            return "a lone surrogate"
        left += [*part, *part.values()] if isinstance(part, Mapping) else part if isinstance(part, list) else []
    return ""


def scan_shard(shard: Shard, *, exclude: bool = False) -> Scan:
    """A folder's rows of the index; `length` is the size of the image. No image is opened."""
    rejects, digest, rows = Rejects(exclude=exclude), xxh3_64(), list[tuple[Any, ...]]()
    others, hidden, images = dict[str, None](), set[str](), set[str]()
    for position, found in enumerate(_list_files(shard)):
        if position in shard.skip:
            continue
        try:
            key = _key(shard, found, shard.first_row + len(rows))
            values = _conditions(shard, found, key)
            _check_others(shard, found, key)
        except DatasetError as error:
            rejects(position, error)
            continue
        size = (shard.root / found.path).stat().st_size
        rows.append((key, position, 0, size, int(values.get("label", -1)), values.get("caption")))
        digest.update(f"{found.path}\0{values}".encode())
        others |= dict.fromkeys(_other_columns(shard, found))
        hidden.update(_unused_columns(shard, found).intersection(ROW_FIELDS))
        images.add(found.path.rpartition(".")[2].lower())
    columns = zip(*rows, strict=True) if rows else [()] * len(SCANNED)
    table = pa.table([pa.array(column, kind) for column, kind in zip(columns, SCANNED.types, strict=True)], schema=SCANNED)
    return Scan(table, tuple(rejects.found), digest.hexdigest(), tuple(sorted(others)), tuple(sorted(images)), tuple(sorted(hidden)))


def _unused_columns(shard: Shard, found: _File) -> set[str]:
    """The columns that neither the key nor a condition was read from."""
    used = {_name_of(field, shard.layout.columns, found.columns) for field in FIELDS}
    return found.columns.keys() - used - {shard.layout.key_rule.removeprefix("column:")}


def _other_columns(shard: Shard, found: _File) -> list[str]:
    used = {_name_of(field, shard.layout.columns, found.columns) for field in FIELDS}
    return [name for name in found.columns if name not in {*used, *ROW_FIELDS}]


def find_nulls(shard: Shard, name: str) -> Any:
    """The positions of the images whose row of a metadata file holds nothing in a column."""
    found = _list_files(shard)
    return np.array([place for place, file in enumerate(found) if name != "image" and file.columns.get(name) is None], np.int64)


def _load_row(shard: Shard, found: _File, ordinal: int, edits: Mapping[str, RowEdit]) -> tuple[str, Row]:
    key = _key(shard, found, ordinal)
    values = _conditions(shard, found, key)
    for field, (old, new) in edits.get(key, {}).items():
        if values.get(field) != old:
            raise changed_source(shard.file, key, f"the {field} {values.get(field)!r:.80}", f"{old!r:.80}")
        values[field] = new
    try:
        row: Row = {"key": key, "image": (shard.root / found.path).read_bytes()}
    except OSError as error:
        raise DatasetError(Problem(str(shard.root / found.path), f"cannot be read: {error.strerror}", do="mend it", key=key)) from None
    row |= {field: int(value) if field == "label" else value for field, value in values.items()}
    return found.path, row | {name: found.columns[name] for name in _other_columns(shard, found)}


def read_rows(shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
    """Every row of a shard, edits applied, with its image's path."""
    left, number = set(edits), shard.first_row
    for position, found in enumerate(_list_files(shard)):
        if position not in shard.skip:
            path, row = _load_row(shard, found, number, edits)
            left.discard(row["key"])
            number += 1
            yield path, row
    if left:
        raise changed_source(shard.file, min(left), "the image is not there")


def read_spot(shard: Shard, spot: Spot, edit: RowEdit | None) -> tuple[str, Row]:
    """One row by its place, with its image's path."""
    files = _list_files(shard)
    if spot.position >= len(files):
        raise changed_source(shard.file, "", f"{len(files)} images")
    found = files[spot.position]
    return _load_row(shard, found, spot.number, {} if edit is None else {_key(shard, found, spot.number): edit})


def read_row(shard: Shard, spot: Spot, edit: RowEdit | None) -> Row:
    """One row by its place."""
    return read_spot(shard, spot, edit)[1]


def read_tables(shard: Shard, edits: Mapping[str, RowEdit], schema: pa.Schema) -> Iterator[tuple[pa.Array, pa.Table]]:
    """The same rows in pieces, as tables of a schema, with their images' names."""
    return pack_rows(read_rows(shard, edits), schema)


def other_types(shard: Shard, others: tuple[str, ...]) -> dict[str, pa.DataType]:
    """The types of the other columns of a metadata file. Raises DatasetError where one is mixed."""
    rows = [found.columns for position, found in enumerate(_list_files(shard)) if position not in shard.skip]
    types = {}
    for name in others:
        try:
            types[name] = pa.array([row.get(name) for row in rows]).type
        except (pa.ArrowException, TypeError):
            found, do = f"the column '{name}' holds values of several types", "mend the metadata file, or remove the column"
            raise DatasetError(Problem(str(shard.file), found, "one type", do)) from None
    return types


def key_at(shard: Shard, spot: Spot) -> str:
    """The key of a row by its place."""
    files = _list_files(shard)
    if spot.position >= len(files):
        raise changed_source(shard.file, "", f"{len(files)} images")
    return _key(shard, files[spot.position], spot.number)
