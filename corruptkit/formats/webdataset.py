"""WebDataset shards: tars whose neighbouring members with one stem are a sample.

Reading cuts samples out of shards; writing patches shards: bytes that no edit concerns are never looked into.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import Columns, FieldName, RowEdit, Span, find_conditions, holds_field, json_spans, rewrite_member
from corruptkit.formats.keys import Place, check_key, make_keyer
from corruptkit.formats.tar import Member, Read, Window, pad_block, read_range, resize_headers, walk_members

IMAGE_SUFFIXES = frozenset(
    ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "avif", "heic", "jxl", "jp2", "img")
)
_ROW_FIELDS = ("key", "image", "label", "caption")
_HEADERS_AHEAD = 8 << 10  # a header with its neighbours: the captions and labels between two images
_BYTES_AHEAD = 4 << 20
_LARGEST_CONDITION = 16 << 20


class Layout(NamedTuple):
    """How to read a source: the rule that yields keys, and what holds label and caption."""

    key_rule: str = "sample"
    columns: Columns = Columns()


class Sample(NamedTuple):
    """A sample in a shard: its key, its stem, its members by lower-case suffix, and the bytes [start, end) that it fills."""

    key: str
    stem: str
    parts: dict[str, Member]
    start: int
    end: int


class Patch(NamedTuple):
    """Bytes [start, end) of a shard and what stands there instead: one member, headers, content and padding.

    `original` is the member as the source reads, where the edits rewrite it.
    """

    key: str
    stem: str
    name: str
    start: int
    end: int
    content: bytes
    original: bytes | None


@contextmanager
def open_shard(file: Path, ahead: int = _HEADERS_AHEAD) -> Iterator[tuple[Window, int]]:
    """A shard for reading, with its size."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise DatasetError(Problem(str(file), f"cannot be read: {error.strerror}", do="mend the path or its permissions")) from None
    try:
        yield Window(descriptor, ahead), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def split_name(name: str, file: Path) -> tuple[str, str] | None:
    """A member's stem (up to the first dot of its base name) and lower-case suffix; None for what belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    if (not slash and base.startswith("__") and base.endswith("__")) or "." not in base:
        return None
    if base.startswith("._") or base == ".DS_Store":  # what macOS packs beside the files
        return None
    stem, _, suffix = base.partition(".")
    if not stem:
        raise DatasetError(Problem(str(file), "an empty key", "a name before the first dot", "rename the member", key=name))
    return folder + slash + stem, suffix.lower()


def group_samples(read: Read, size: int, file: Path, layout: Layout, first_row: int = 0, start: int | None = None) -> Iterator[Sample]:
    """The samples of a shard, or of the bytes [start, size) cut out of one."""
    keyer = make_keyer(layout.key_rule)
    stem, parts, ordinal = "", dict[str, Member](), first_row
    for member in walk_members(read, size, file, start or 0, whole=start is None):
        named = split_name(member.name, file)
        if named is None:
            continue
        if named[0] != stem and parts:
            yield _finish_sample(stem, parts, keyer(Place(stem, file.name, ordinal)), read, file, layout)
            ordinal += 1
            parts = {}
        stem, suffix = named
        if suffix in parts:
            raise DatasetError(Problem(str(file), f"two members .{suffix}", "one of each suffix", "rename one of them", key=stem))
        parts[suffix] = member
    if parts:
        yield _finish_sample(stem, parts, keyer(Place(stem, file.name, ordinal)), read, file, layout)


def _finish_sample(stem: str, parts: dict[str, Member], key: str | None, read: Read, file: Path, layout: Layout) -> Sample:
    ends = [member.end for member in parts.values()]
    if key is None:
        key = _json_key(stem, parts, read, file, layout.key_rule.removeprefix("json:"))
    return Sample(check_key(key, str(file)), stem, parts, min(m.start for m in parts.values()), max(ends))


def _json_key(stem: str, parts: dict[str, Member], read: Read, file: Path, name: str) -> str:
    values = [span.value for span in _spans(stem, parts, read, file) if span.name == name]
    if not values or type(values[-1]) not in (str, int):
        found, expected = f"no text or integer field '{name}' in the .json", "a key in every sample"
        raise DatasetError(Problem(str(file), found, expected, "mend the --key rule", key=stem))
    return str(values[-1])


def _content(member: Member, read: Read, file: Path) -> bytes:
    if member.size > _LARGEST_CONDITION:
        limit = f"at most {_LARGEST_CONDITION >> 20} MiB of text or JSON"
        raise DatasetError(Problem(str(file), f"{member.size} bytes", limit, "mend the sample", key=member.name))
    return read(member.data, member.size)


def _spans(stem: str, parts: dict[str, Member], read: Read, file: Path) -> list[Span]:
    if "json" not in parts:
        return []
    try:
        return json_spans(_content(parts["json"], read, file))[1]
    except ValueError as error:
        raise DatasetError(Problem(str(file), str(error), "a JSON object in UTF-8", "mend the member", key=stem)) from None


def read_conditions(sample: Sample, read: Read, file: Path, columns: Columns) -> dict[FieldName, str]:
    """The label (in decimal) and caption of a sample, where it has them."""
    try:
        return find_conditions(sample.parts, lambda suffix: _content(sample.parts[suffix], read, file), columns)
    except ValueError as error:
        expected = "a label as a non-negative integer, a caption in UTF-8, a .json with an object"
        raise DatasetError(Problem(str(file), f"found {error}", expected, "mend the sample", key=sample.key)) from None


def scan_shard(file: Path, layout: Layout, first_row: int = 0) -> tuple[pa.Table, str, tuple[str, ...]]:
    """A shard's rows of the index, XXH3 of its headers and conditions, and the other columns that its rows have."""
    keys, places, lengths, labels, captions = [], [], [], [], []
    digest = xxh3_64()
    others: set[str] = set()
    with open_shard(file) as (window, size):
        for sample in group_samples(window.read, size, file, layout, first_row):
            found = read_conditions(sample, window.read, file, layout.columns)
            keys.append(sample.key)
            places.append(sample.start)
            lengths.append(sample.end - sample.start)
            labels.append(int(found.get("label", -1)))
            captions.append(found.get("caption"))
            for member in sample.parts.values():
                digest.update(f"{member.name}\0{member.start}\0{member.size}\0".encode())
            digest.update(f"{found}".encode())
            others.update(other_suffixes(sample.parts, layout.columns))
    table = {
        "key": pa.array(keys, pa.large_string()),
        "position": np.arange(len(keys)),
        "offset": pa.array(places, pa.int64()),
        "length": pa.array(lengths, pa.int64()),
        "label": pa.array(labels, pa.int64()),
        "caption": pa.array(captions, pa.large_string()),
    }
    return pa.table(table), digest.hexdigest(), tuple(sorted(others))


def patch_shard(
    file: Path, layout: Layout, edits: Mapping[str, RowEdit], below: Mapping[str, RowEdit] | None = None, first_row: int = 0
) -> Iterator[Patch]:
    """Every member that the edits of a shard (by key) rewrite, in the order of the file; those `below` are of an overlay as source.

    Refuses edits whose row does not hold the old value and, once the shard has been walked, those whose row is not there.
    """
    below = below or {}
    left = set(edits) | set(below)
    with open_shard(file) as (window, size):
        for sample in group_samples(window.read, size, file, layout, first_row) if left else ():
            if sample.key in left:
                left.remove(sample.key)
                yield from _patch_sample(sample, below.get(sample.key, {}), edits.get(sample.key, {}), window.read, file, layout.columns)
    if left:
        raise _changed(file, min(left), "the sample is not there")


def _patch_sample(sample: Sample, below: RowEdit, edit: RowEdit, read: Read, file: Path, columns: Columns) -> Iterator[Patch]:
    """The sample's members that hold a field of an edit."""
    parts = {
        suffix: member for suffix, member in sample.parts.items() if suffix in ("json", columns.suffix("label"), columns.suffix("caption"))
    }
    raw = {suffix: _content(member, read, file) for suffix, member in parts.items()}
    source = _edit_contents(sample.key, raw, below, file, columns)
    variant = _edit_contents(sample.key, source, edit, file, columns)
    for suffix, member in parts.items():
        held = holds_field(suffix, source[suffix], edit, columns)
        if held or holds_field(suffix, raw[suffix], below, columns):
            original = _member_bytes(member, source[suffix], raw[suffix], read) if held else None
            content = _member_bytes(member, variant[suffix], raw[suffix], read)
            yield Patch(sample.key, sample.stem, member.name, member.start, member.end, content, original)


def _edit_contents(key: str, contents: dict[str, bytes], edit: RowEdit, file: Path, columns: Columns) -> dict[str, bytes]:
    found = find_conditions(contents, contents.__getitem__, columns) if edit else {}
    for field, (old, _) in edit.items():
        if found.get(field) != old:
            raise _changed(file, key, f"the {field} {found.get(field)!r:.80}", f"{old!r:.80}")
    return {suffix: rewrite_member(suffix, content, edit, columns) for suffix, content in contents.items()}


def _member_bytes(member: Member, content: bytes, raw: bytes, read: Read) -> bytes:
    if content == raw:
        return read(member.start, member.end - member.start)
    headers = read(member.start, member.data - member.start)
    return (headers if len(content) == len(raw) else resize_headers(headers, len(content))) + pad_block(content)


def _changed(file: Path, key: str, found: str, expected: str = "the shard as it was indexed") -> DatasetError:
    return DatasetError(Problem(str(file), f"found {found}", expected, "the source has changed: plan again", key=key))


def read_samples(file: Path, layout: Layout, edits: Mapping[str, RowEdit], first_row: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every sample of a shard, edits applied: its key and {"__key__": stem, suffix: bytes, ...}."""
    with open_shard(file, _BYTES_AHEAD) as (window, size):
        for sample in group_samples(window.read, size, file, layout, first_row):
            yield sample.key, _load_sample(sample, window.read, edits.get(sample.key), layout.columns)


def read_sample(descriptor: int, file: Path, layout: Layout, place: int, length: int, edit: RowEdit | None) -> dict[str, Any]:
    """One sample by its place in a shard, its edit applied."""
    data = read_range(descriptor, place, length)

    def read(start: int, size: int) -> bytes:
        return data[start - place : start - place + size]

    for sample in group_samples(read, place + len(data), file, layout, start=place):
        return _load_sample(sample, read, edit, layout.columns)
    raise _changed(file, "", f"no sample at byte {place}")


def _load_sample(sample: Sample, read: Read, edit: RowEdit | None, columns: Columns) -> dict[str, Any]:
    loaded: dict[str, Any] = {"__key__": sample.stem}
    for suffix, member in sample.parts.items():
        content = read(member.data, member.size)
        loaded[suffix] = content if edit is None else rewrite_member(suffix, content, edit, columns)
    return loaded


def sample_row(key: str, loaded: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """A loaded sample as a row: key, image, label and caption where there are any, and the other members as they are."""
    row: dict[str, Any] = {"key": key}
    if (image := _image_suffix(loaded)) is not None:
        row["image"] = loaded[image]
    for field, value in find_conditions(loaded, loaded.__getitem__, columns).items():
        row[field] = int(value) if field == "label" else value
    return row | {suffix: loaded[suffix] for suffix in other_suffixes(loaded, columns)}


def other_suffixes(suffixes: Iterable[str], columns: Columns) -> list[str]:
    """The members of a sample that a row holds besides its fields; a member named as a field would hide it, and is left out."""
    used = {"__key__", _image_suffix(suffixes), columns.suffix("label"), columns.suffix("caption"), *_ROW_FIELDS}
    return [suffix for suffix in suffixes if suffix not in used]


def _image_suffix(suffixes: Iterable[str]) -> str | None:
    return next((suffix for suffix in suffixes if suffix in IMAGE_SUFFIXES), None)


def member_at(file: Path, place: int) -> str:
    """The name of the member whose headers, content or padding a byte belongs to."""
    with open_shard(file) as (window, size):
        return next((m.name for m in walk_members(window.read, size, file) if place < m.end), "the end of the archive")
