"""WebDataset shards: tars whose neighbouring members with one stem are a sample.

Reading cuts samples out of shards; writing patches shards: bytes that no edit concerns are never looked into.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from xxhash import xxh3_64

from corruptkit.errors import DatasetError, Problem
from corruptkit.formats.conditions import (
    Columns,
    FieldName,
    RowEdit,
    Span,
    chain_edits,
    condition_suffixes,
    find_conditions,
    holds_field,
    json_spans,
    rewrite_member,
    telling_text,
    tells_old,
)
from corruptkit.formats.keys import Keyer, check_key, decode_key, make_keyer
from corruptkit.formats.layout import ROW_FIELDS, SCANNED, OnBad, Rejects, Row, Scan, Shard, Spot, changed_source, missing_field, pack_rows
from corruptkit.formats.repeats import Found, learn_shape, scan_repeats
from corruptkit.formats.tar import Member, Read, Usual, Window, pad_block, resize_headers, walk_members
from corruptkit.remote import STREAM, RemoteFile, RemotePath

IMAGE_SUFFIXES = frozenset(
    ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "avif", "heic", "jxl", "jp2", "img")
)
_HEADERS_AHEAD = 0  # the walk knows how far it is from one image to the next
_BYTES_AHEAD = 4 << 20
_WORTH, _MOST_CAREFUL = 16, 256  # samples in a row
LARGEST_CONDITION = 16 << 20
_LARGEST_TEXT = 1 << 20  # of other members of a sample, which are looked at for the caption that it had


class Sample(NamedTuple):
    """A sample in a shard: its key, its stem, its members by lower-case suffix, the bytes [start, end) it fills, its number."""

    key: str
    stem: str
    parts: dict[str, Member]
    start: int
    end: int
    position: int


class Patch(NamedTuple):
    """Bytes [start, end) of a shard and what stands there instead: one member, headers, content and padding.

    `original` is the member as the source reads, where the edits rewrite it. `tells` says whether the sample still holds its old
    caption, in a field or a member that is not rewritten.
    """

    key: str
    stem: str
    name: str
    start: int
    end: int
    content: bytes
    original: bytes | None
    tells: bool


@contextmanager
def open_shard(file: Path, ahead: int = _HEADERS_AHEAD, *, stream: bool = False) -> Iterator[tuple[Window, int]]:
    """A shard for reading, with its size; a remote one that is read from end to end is asked for in large pieces."""
    if isinstance(file, RemotePath):
        opened = RemoteFile(file)
        yield Window(opened.pread, STREAM if stream else ahead), opened.size
        return
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise DatasetError(Problem(str(file), f"cannot be read: {error.strerror}", do="mend the path or its permissions")) from None
    try:
        yield Window(descriptor, ahead), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def split_name(name: str) -> tuple[str, str] | None:
    """A member's stem (up to the first dot of its base name) and lower-case suffix; None for what belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    if (not slash and base.startswith("__") and base.endswith("__")) or "." not in base:
        return None
    if base.startswith("._") or base == ".DS_Store":  # what macOS packs beside the files
        return None
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _walk_groups(read: Read, size: int, file: Path, start: int, *, whole: bool) -> Iterator[tuple[str, dict[str, Member], str | None]]:
    """Neighbouring members with one stem, by suffix; and the suffix of which there are two, if there is one."""
    stem, prefix, parts = "", "", dict[str, Member]()
    twice: str | None = None  # a suffix may be empty
    for member in walk_members(read, size, file, start, whole=whole):
        name = member.name
        suffix = name[len(prefix) :]
        if not prefix or "/" in suffix or not name.startswith(prefix):  # of all others split_name would say the same
            named = split_name(name)
            if named is None:
                continue
            if named[0] != stem and parts:
                yield stem, parts, twice
                parts, twice = {}, None
            stem, suffix = named
            prefix = "" if stem.startswith("_") else f"{stem}."  # __stem.suffix__ belongs to no sample
        suffix = suffix.lower()
        twice = suffix if suffix in parts else twice
        parts[suffix] = member
    if parts:
        yield stem, parts, twice


def group_samples(
    read: Read, size: int, shard: Shard, start: int | None = None, on_bad: OnBad | None = None, after: Spot | None = None
) -> Iterator[Sample]:
    """The samples of a shard, or of the bytes [start, size) cut out of one; bad ones are handed to `on_bad`, or raised.

    A walk that was left off goes on at the spot `after` the last sample.
    """
    keyer, name, skip = find_keyer(shard), shard.file.name, shard.skip if start is None else ()
    first, place, _, ordinal = after or Spot(0, start or 0, 0, shard.first_row)
    groups = _walk_groups(read, size, shard.file, place, whole=start is None)
    for position, (stem, parts, twice) in enumerate(groups, first):
        if position in skip:
            continue
        try:
            key = _sample_key(stem, parts, twice, keyer(stem, name, ordinal), read, shard)
        except DatasetError as error:
            if on_bad is None:
                raise
            on_bad(position, error)
            continue
        ordinal += 1
        members = list(parts.values())
        yield Sample(key, stem, parts, members[0].start, members[-1].end, position)  # a walk goes up


def find_keyer(shard: Shard) -> Keyer:
    """Encoded keys stand in the names: the rule was that of another layout."""
    if shard.layout.key_encoding == "percent":
        return lambda stem, *_: decode_key(stem)
    return make_keyer(shard.layout.key_rule, str(shard.file))


def _sample_key(stem: str, parts: dict[str, Member], twice: str | None, key: str | None, read: Read, shard: Shard) -> str:
    """The key of a sample that may be one."""
    file = shard.file
    if not stem or stem.endswith("/"):
        name = next(iter(parts.values())).name
        raise DatasetError(Problem(str(file), "an empty key", "a name before the first dot", "rename the member", key=name))
    if twice is not None:
        raise DatasetError(Problem(str(file), f"two members .{twice}", "one of each suffix", "rename one of them", key=stem))
    if key is None:
        key = _json_key(stem, parts, read, file, shard.layout.key_rule.removeprefix("json:"))
    return key if key.isalnum() else check_key(key, str(file))


def _json_key(stem: str, parts: dict[str, Member], read: Read, file: Path, name: str) -> str:
    values = [span.value for span in _spans(stem, parts, read, file) if span.name == name]
    if not values or type(values[-1]) not in (str, int):
        found, expected = f"no text or integer field '{name}' in the .json", "a key in every sample"
        raise DatasetError(Problem(str(file), found, expected, "mend the --key rule", key=stem))
    return str(values[-1])


def _content(member: Member, read: Read, file: Path) -> bytes:
    if member.size > LARGEST_CONDITION:
        limit = f"at most {LARGEST_CONDITION >> 20} MiB of text or JSON"
        raise DatasetError(Problem(str(file), f"{member.size} bytes", limit, "mend the sample", key=member.name))
    return read(member.data, member.size)


def _spans(stem: str, parts: dict[str, Member], read: Read, file: Path) -> list[Span]:
    if "json" not in parts:
        return []
    try:
        return json_spans(_content(parts["json"], read, file))[1]
    except ValueError as error:
        raise DatasetError(Problem(str(file), str(error), "a JSON object in UTF-8", "mend the member", key=stem)) from None


def read_conditions(sample: Sample, read: Read, shard: Shard) -> dict[FieldName, str]:
    """The label (in decimal) and caption of a sample, where it has them."""
    parts, columns = sample.parts, shard.layout.columns
    members = {suffix: _content(parts[suffix], read, shard.file) for suffix in condition_suffixes(tuple(parts), columns)}
    try:
        found = find_conditions(members, columns)
    except ValueError as error:
        expected = "a label as a non-negative integer, a caption in UTF-8, a .json with an object"
        raise DatasetError(Problem(str(shard.file), f"found {error}", expected, "mend the sample", key=sample.key)) from None
    for field in shard.layout.needed:
        if field not in found:
            raise missing_field(shard, field, sample.key)
    return found


def scan_shard(shard: Shard, *, exclude: bool = False) -> Scan:
    """A shard's rows of the index; bad samples are refused, or listed where `exclude` is set."""
    found, rejects = Found(), Rejects(exclude=exclude)
    with open_shard(shard.file, stream=True) as (window, size):
        _scan_samples(window.read, size, shard, rejects, found)
    numbers = np.asarray(found.numbers).reshape(-1, 4).T.copy()
    columns = [pa.array(found.keys, pa.large_string()), *map(pa.array, numbers), pa.array(found.captions, pa.large_string())]
    shapes = sorted(found.shapes)
    digest = xxh3_64("\0".join([*map(repr, shapes), *found.keys, *filter(None, found.captions)]).encode())
    for column in (*numbers, np.asarray(found.sizes)):
        digest.update(column.tobytes())
    others = {suffix for shape in shapes for suffix in other_suffixes(shape, shard.layout.columns)}
    hidden = {suffix for shape in shapes for suffix in hidden_suffixes(shape, shard.layout.columns)}
    table = pa.table(columns, schema=SCANNED)
    return Scan(
        table,
        tuple(rejects.found),
        digest.hexdigest(),
        tuple(sorted(others)),
        shown_images(shapes, shard.layout.columns),
        tuple(sorted(hidden)),
    )


def _scan_samples(read: Read, size: int, shard: Shard, rejects: Rejects, found: Found) -> None:
    """Read some samples with care and, the short way, those that repeat the last of them, by turns."""
    keyer, usual, spot, some = find_keyer(shard), Usual(), Spot(0, 0, 0, shard.first_row), 1
    while True:
        samples = group_samples(read, size, shard, on_bad=rejects, after=spot)
        count, sample = _scan_carefully(islice(samples, some), read, shard, rejects, found)
        if sample is None or count < some:
            return
        before = Spot(sample.position + 1, sample.end, 0, spot.number + count)
        shape = learn_shape(sample.parts, sample.stem, read, shard.layout.columns, usual)
        usual = shape.usual
        spot = scan_repeats(read, shard, keyer, shape, before, found)
        # Where the short way gets nowhere, it is tried less and less.
        some = 1 if spot.position - before.position >= _WORTH else min(2 * some, _MOST_CAREFUL)


def _scan_carefully(samples: Iterable[Sample], read: Read, shard: Shard, rejects: Rejects, found: Found) -> tuple[int, Sample | None]:
    """Add the rows of samples; how many samples there were, and the last."""
    count, sample = 0, None
    for count, sample in enumerate(samples, 1):  # noqa: B007 - both are returned
        try:
            values = read_conditions(sample, read, shard)
        except DatasetError as error:
            rejects(sample.position, error)
            continue
        sizes = [member.size for member in sample.parts.values()]
        found.add(sample.key, (sample.position, sample.start, sample.end), values, sizes)
        found.shapes.add(tuple(sample.parts))
    return count, sample


def patch_shard(
    shard: Shard, edits: Mapping[str, RowEdit], below: Mapping[str, RowEdit] | None = None, spots: Iterable[Spot] | None = None
) -> Iterator[Patch]:
    """Every member that the edits of a shard (by key) rewrite, in the order of the file; those `below` are of an overlay as source.

    `spots`, where an index knows them, say in the same order where the rows lie: nothing else of the shard is then read.
    Refuses edits whose row does not hold the old value and, in the end, those whose row is not there.
    """
    below = below or {}
    left = set(edits) | set(below)
    with open_shard(shard.file, stream=spots is None) as (window, size):
        for sample in _find_samples(window.read, size, shard, spots) if left else ():
            if sample.key in left:
                left.remove(sample.key)
                edit = edits.get(sample.key, {})
                yield from _patch_sample(sample, below.get(sample.key, {}), edit, window.read, shard.file, shard.layout.columns)
    if left:
        raise changed_source(shard.file, min(left), "the sample is not there")


def _find_samples(read: Read, size: int, shard: Shard, spots: Iterable[Spot] | None) -> Iterator[Sample]:
    if spots is None:
        return group_samples(read, size, shard)
    found = (group_samples(read, s.offset + s.length, shard._replace(first_row=s.number), s.offset) for s in spots)
    return chain.from_iterable(found)


def _patch_sample(sample: Sample, below: RowEdit, edit: RowEdit, read: Read, file: Path, columns: Columns) -> Iterator[Patch]:
    """The sample's members that hold a field of an edit."""
    parts = {
        suffix: member for suffix, member in sample.parts.items() if suffix in ("json", columns.suffix("label"), columns.suffix("caption"))
    }
    raw = {suffix: _content(member, read, file) for suffix, member in parts.items()}
    source = _edit_contents(sample.key, raw, below, file, columns)
    variant = _edit_contents(sample.key, source, edit, file, columns)
    tells = _still_tells(sample, variant, chain_edits(below, edit), read, columns)
    for suffix, member in parts.items():
        held = holds_field(suffix, source[suffix], edit, columns)
        if held or holds_field(suffix, raw[suffix], below, columns):
            original = _member_bytes(member, source[suffix], raw[suffix], read) if held else None
            content = _member_bytes(member, variant[suffix], raw[suffix], read)
            yield Patch(sample.key, sample.stem, member.name, member.start, member.end, content, original, tells)


def _still_tells(sample: Sample, variant: Mapping[str, bytes], edit: RowEdit, read: Read, columns: Columns) -> bool:
    """Whether a sample with its edited members still holds its old caption; images and large members are not looked at."""
    if not telling_text(edit):
        return False
    for suffix, member in sample.parts.items():
        whole = suffix == columns.suffix("caption") != "json"  # the new caption, and nothing else
        image = suffix == columns.image or suffix.rpartition(".")[2] in IMAGE_SUFFIXES
        if whole or image or (suffix not in variant and member.size > _LARGEST_TEXT):
            continue
        if tells_old(variant[suffix] if suffix in variant else read(member.data, member.size), edit):
            return True
    return False


def _edit_contents(key: str, contents: dict[str, bytes], edit: RowEdit, file: Path, columns: Columns) -> dict[str, bytes]:
    found = find_conditions(contents, columns) if edit else {}
    for field, (old, _) in edit.items():
        if found.get(field) != old:
            raise changed_source(file, key, f"the {field} {found.get(field)!r:.80}", f"{old!r:.80}")
    return {suffix: rewrite_member(suffix, content, edit, columns) for suffix, content in contents.items()}


def _member_bytes(member: Member, content: bytes, raw: bytes, read: Read) -> bytes:
    if content == raw:
        return read(member.start, member.end - member.start)
    headers = read(member.start, member.data - member.start)
    return (headers if len(content) == len(raw) else resize_headers(headers, len(content))) + pad_block(content)


def read_samples(shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every sample of a shard, edits applied: its key and {"__key__": stem, suffix: bytes, ...}."""
    left = set(edits)
    with open_shard(shard.file, _BYTES_AHEAD, stream=True) as (window, size):
        for sample in group_samples(window.read, size, shard):
            left.discard(sample.key)
            yield sample.key, _load_sample(sample, window.read, edits.get(sample.key), shard)
    if left:
        raise changed_source(shard.file, min(left), "the sample is not there")


def read_rows(shard: Shard, edits: Mapping[str, RowEdit]) -> Iterator[tuple[str, Row]]:
    """Every row of a shard, edits applied, with its image's name."""
    columns = shard.layout.columns
    for key, sample in read_samples(shard, edits):
        suffix = _image_suffix(sample, columns)
        yield f"{sample['__key__']}.{suffix}" if suffix else "", sample_row(key, sample, columns)


def read_row(shard: Shard, spot: Spot, edit: RowEdit | None) -> Row:
    """One row by its place in a shard, its edit applied."""
    with open_shard(shard.file, 0) as (window, _):
        data = window.read(spot.offset, spot.length)

    def read(start: int, size: int) -> bytes:
        return data[start - spot.offset : start - spot.offset + size]

    for sample in group_samples(read, spot.offset + len(data), shard, spot.offset):
        loaded = _load_sample(sample, read, edit, shard)
        return sample_row(sample.key, loaded, shard.layout.columns)
    raise changed_source(shard.file, "", f"no sample at byte {spot.offset}")


def read_tables(shard: Shard, edits: Mapping[str, RowEdit], schema: pa.Schema) -> Iterator[tuple[pa.Array, pa.Table]]:
    """The same rows in pieces, as tables of a schema, with their images' names."""
    return pack_rows(read_rows(shard, edits), schema)


def find_rule(file: Path) -> str:  # noqa: ARG001 - the signature of every format
    """Samples are named by their members' stems."""
    return "sample"


def other_types(shard: Shard, others: tuple[str, ...]) -> dict[str, pa.DataType]:  # noqa: ARG001 - the signature of every format
    """Other members are bytes."""
    return dict.fromkeys(others, pa.large_binary())


def _load_sample(sample: Sample, read: Read, edit: RowEdit | None, shard: Shard) -> dict[str, Any]:
    loaded = {suffix: read(member.data, member.size) for suffix, member in sample.parts.items()}
    if edit is not None:  # refused where the old value is not there: an index may be a side-car's word
        loaded = _edit_contents(sample.key, loaded, edit, shard.file, shard.layout.columns)
    return {"__key__": sample.stem, **loaded}


def sample_row(key: str, loaded: Mapping[str, Any], columns: Columns) -> Row:
    """A loaded sample as a row: key, image, label and caption where there are any, and the other members as they are."""
    row: Row = {"key": key}
    if (image := _image_suffix(loaded, columns)) is not None:
        row["image"] = loaded[image]
    for field, value in find_conditions(loaded, columns).items():
        row[field] = int(value) if field == "label" else value
    return row | {suffix: loaded[suffix] for suffix in other_suffixes(loaded, columns)}


def other_suffixes(suffixes: Iterable[str], columns: Columns) -> list[str]:
    """The members of a sample that a row holds besides its fields; a member named as a field would hide it, and is left out."""
    used = {"__key__", *_field_suffixes(suffixes, columns), *ROW_FIELDS}
    return [suffix for suffix in suffixes if suffix not in used]


def shown_images(shapes: Iterable[tuple[str, ...]], columns: Columns) -> tuple[str, ...]:
    """The suffixes of the images of samples of these shapes."""
    return tuple(sorted({_image_suffix(shape, columns) or "" for shape in shapes} - {""}))


def hidden_suffixes(suffixes: Iterable[str], columns: Columns) -> list[str]:
    """The members that are left out, since a field of rows has their name."""
    used = _field_suffixes(suffixes, columns)
    return [suffix for suffix in suffixes if suffix in ROW_FIELDS and suffix not in used]


def _field_suffixes(suffixes: Iterable[str], columns: Columns) -> tuple[str | None, str, str]:
    return _image_suffix(suffixes, columns), columns.suffix("label"), columns.suffix("caption")


def _image_suffix(suffixes: Iterable[str], columns: Columns) -> str | None:
    if columns.image:
        named = columns.image.lower()  # as the suffixes are
        return named if named in suffixes else None
    return next((suffix for suffix in suffixes if suffix in IMAGE_SUFFIXES), None)


def member_at(file: Path, place: int) -> str:
    """The name of the member whose headers, content or padding a byte belongs to."""
    with open_shard(file) as (window, size):
        return next((m.name for m in walk_members(window.read, size, file) if place < m.end), "the end of the archive")
