"""Samples that repeat the one before: the short way through a shard that is indexed.

Most samples of a shard have the members of the one before, under headers that differ in name, size, time and checksum alone. They are
read here in one loop that makes no object of a member. Whatever is in any way unusual ends the loop, and the careful reader takes up
there: nothing is refused here, and a sample counts only once the next header has shown where it ends. Labels and captions are
read by `find_conditions`, as ever; a property test holds the rest to what the careful reader says.
"""

from __future__ import annotations

import re
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from corruptkit.errors import DatasetError
from corruptkit.formats.conditions import Columns, FieldName, condition_suffixes, find_conditions
from corruptkit.formats.keys import Keyer, key_fault
from corruptkit.formats.layout import Shard, Spot
from corruptkit.formats.tar import BLOCK, PARTS, Member, Read, Usual, learn_usual, next_ahead, skip_time, stated_sum

_LONGEST_NAME = 100
_LARGEST_CONDITION = 1 << 16  # a larger one is read with care
# What `split_name` would cut at its last dot but one, or give to no sample, is no plain stem.
_PLAIN_STEM = re.compile(rb"(?!_)(?:[^\0]*/)?[^./\0]+")

# A sample's stem, where its bytes begin and end, the sizes of its members, and the contents of those that conditions stand in.
Repeat = tuple[bytes, int, int, list[int], dict[str, bytes]]


class Found:
    """The rows of a shard in columns: a tuple a row would be looked after by Python's collector of garbage."""

    def __init__(self) -> None:
        self.keys, self.captions = list[str](), list[str | None]()
        self.numbers = array("q")  # of each row, one after another: position, start, length, label
        self.sizes = array("q")  # of every member
        self.shapes = set[tuple[str, ...]]()  # the suffixes of samples: few, whatever the number of samples

    def add(self, key: str, place: tuple[int, int, int], values: Mapping[FieldName, str], sizes: list[int]) -> None:
        """A row: its key, its position and the bytes [start, end) of its sample, its conditions, its members' sizes."""
        position, start, end = place
        self.keys.append(key)
        self.captions.append(values.get("caption"))
        self.numbers.extend((position, start, end - start, int(values["label"]) if "label" in values else -1))
        self.sizes.extend(sizes)


class Shape(NamedTuple):
    """What a sample may repeat: what each member's name adds to the stem, with the suffix of those to be read; and the usual headers."""

    suffixes: tuple[str, ...]
    members: tuple[tuple[bytes, str], ...]
    longest: int  # what a stem may be in bytes, so that every name fits a header
    usual: Usual


def learn_shape(parts: Mapping[str, Member], stem: str, read: Read, columns: Columns, usual: Usual) -> Shape:
    """The shape of a sample that was read with care; `usual` is what is known of headers already."""
    wanted = condition_suffixes(tuple(parts), columns)
    for member in parts.values():
        usual = learn_usual(usual, read, member)
    members = tuple((f"{member.name[len(stem) :]}\0".encode(), suffix if suffix in wanted else "") for suffix, member in parts.items())
    return Shape(tuple(parts), members, _LONGEST_NAME + 1 - max(len(ending) for ending, _ in members), usual)


def walk_repeats(read: Read, at: int, shape: Shape) -> Iterator[Repeat]:  # noqa: C901 - a function a member would cost too much
    """The samples of a shape from a place on, each once the header after it has shown that it ends there."""
    tail, rest, times, most = shape.usual
    held, offset, used, ahead = b"", 0, 0, 0  # `held` are the bytes from `at` on, of which `offset` have been walked
    sample: Repeat | None = None
    stem, unpack, adler32 = b"", PARTS.unpack_from, zlib.adler32
    try:
        while True:
            begin = at + offset
            sizes: list[int] = []  # a literal: list[int]() takes ten times as long
            contents: dict[str, bytes] = {}
            for ending, suffix in shape.members:
                if offset + most > len(held):
                    ahead = next_ahead(ahead, used, offset + most)
                    held, at, offset = read(at + offset, ahead), at + offset, 0
                if times:
                    offset += skip_time(held, offset, times)
                head, stated, end = unpack(held, offset)
                digits = head[124:135]
                if end != tail or (adler32(head) & 0xFFFF) + rest != stated_sum(stated) or not digits.isdigit() or head[135] not in b"\0 ":
                    return
                stem = stem if sizes else _next_stem(head, ending, stem)
                if not head.startswith(stem + ending) or len(stem) > shape.longest:
                    return
                if sample:
                    yield sample
                    sample = None
                length, used, offset = int(digits, 8), offset + BLOCK, offset + BLOCK
                if suffix:
                    if offset + length > len(held) and length <= _LARGEST_CONDITION:
                        ahead = max(next_ahead(ahead, used, offset + length), length + 2 * BLOCK)
                        held, at, offset = read(at + offset, ahead), at + offset, 0
                    contents[suffix] = held[offset : offset + length]
                    if offset + length > len(held):
                        return
                sizes.append(length)
                offset += length + BLOCK - 1 & -BLOCK
            sample = (stem, begin, at + offset, sizes, contents)
    except (ValueError, IndexError, struct.error):  # bytes that are missing, a size that is none
        return


def _next_stem(head: bytes, ending: bytes, last: bytes) -> bytes:
    """The stem of a sample's first member; where it is not to be taken the short way, bytes that no header begins with."""
    stem = head[: head.find(ending)]
    return stem if stem != last and (stem.isalnum() or _PLAIN_STEM.fullmatch(stem)) else bytes(BLOCK)


def scan_repeats(read: Read, shard: Shard, keyer: Keyer, shape: Shape, spot: Spot, found: Found) -> Spot:
    """Add the samples of a shape from a spot on, as long as they are usual; the spot of the first that is not."""
    position, place, _, ordinal = spot
    keys, captions, numbers, members = found.keys, found.captions, found.numbers, found.sizes
    name, needed, columns = shard.file.name, shard.layout.needed, shard.layout.columns
    for stem, start, end, sizes, contents in walk_repeats(read, place, shape):
        try:
            sample = stem.decode()
            key, values = keyer(sample, name, ordinal), find_conditions(contents, columns)
        except (ValueError, DatasetError):
            break  # the careful way says what is wrong
        if key is None or not (key.isalnum() or not key_fault(key)) or position in shard.skip:
            break
        if needed and not all(field in values for field in needed):
            break
        keys.append(key)  # as `found.add` does, whose call would take a fiftieth of all time
        captions.append(values.get("caption"))
        numbers.extend((position, start, end - start, int(values["label"]) if "label" in values else -1))
        members.extend(sizes)
        position, place, ordinal = position + 1, end, ordinal + 1
    if position > spot.position:  # the sample that the shape was learnt from may be no row
        found.shapes.add(shape.suffixes)
    return Spot(position, place, 0, ordinal)
