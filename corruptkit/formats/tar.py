"""Tar archives as byte ranges: walk the members, and write one member anew. Nothing is unpacked.

Archives are untrusted: whatever POSIX.1-2001 ustar/pax and the GNU long names do not explain is refused with its place.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypedDict

from corruptkit.errors import DatasetError, Problem

BLOCK = 512
_ZEROS = bytes(BLOCK)
Read = Callable[[int, int], bytes]

_FILES = (0, ord("0"), ord("7"))
_FOLDER = ord("5")
_SLASH, _NEWLINE = ord("/"), ord("\n")
_EXTENSIONS = b"xgLK"
_LINKS = {
    ord("1"): "a hard link",
    ord("2"): "a symbolic link",
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a FIFO",
    ord("S"): "a sparse member",
}
_LARGEST_EXTENSION = 1 << 20  # a name or pax header of more than this is an attack, not a name

PARTS = struct.Struct("148s8s356s")  # a header: before its checksum, the checksum, from the type on
_MOST_AHEAD = 8 << 10  # a jump over more than this costs less than reading it
_MOST_TIMES = 8


class Member(NamedTuple):
    """A regular file in a tar: [start, data) holds its headers, [data, data + size) its content, [.., end) padding as well."""

    name: str
    start: int
    data: int
    size: int
    end: int


class _Said(TypedDict, total=False):
    path: str
    size: int


class Window:
    """Reads of a file at any place, a little ahead, so that neighbours cost one call to the system.

    The two latest reads are held: whoever walks on sees the next sample's header before asking for what the last one holds.
    """

    def __init__(self, descriptor: int | Read, ahead: int) -> None:
        self._read: Read = partial(read_range, descriptor) if isinstance(descriptor, int) else descriptor
        self._ahead = ahead
        self._held, self._at = b"", 0
        self._before, self._before_at = b"", 0

    def read(self, place: int, length: int) -> bytes:
        """`length` bytes from `place`, fewer only at the end of the file."""
        begin = place - self._at
        if 0 <= begin <= len(self._held) - length:
            return self._held[begin : begin + length]
        begin = place - self._before_at
        if 0 <= begin <= len(self._before) - length:
            return self._before[begin : begin + length]
        if place < self._at:  # a look back, which must not cost what is held ahead
            return self._read(place, length)
        self._before, self._before_at = self._held, self._at
        self._held, self._at = self._read(place, max(length, self._ahead)), place
        return self._held[:length]


def read_range(descriptor: int, place: int, length: int) -> bytes:
    """pread until `length` bytes are there or the file ends."""
    data = os.pread(descriptor, length, place)
    while 0 < len(data) < length and (more := os.pread(descriptor, length - len(data), place + len(data))):
        data += more
    return data


# By size: a pax header, how its record begins, its length.
Times = Mapping[bytes, tuple[bytes, bytes, int]]


class Usual(NamedTuple):
    """What the headers of an archive repeat, learnt from those that were read with care."""

    tail: bytes = b""  # of a regular file's header, from its type on
    rest: int = 0  # what the tail adds to a checksum, and the checksum's own field
    times: Times = MappingProxyType({})
    most: int = BLOCK  # how long the headers of a member may be


def walk_members(read: Read, size: int, file: Path, start: int = 0, *, whole: bool = True) -> Iterator[Member]:
    """The regular members from `start` to the end marker; a range cut out of an archive (`whole` false) ends at `size` instead.

    Nearly every header repeats the one before it but for name, size, time and checksum: those go a short way, all others the careful one.
    """
    place, data, held, at, ahead, usual = start, start, b"", start, 0, Usual()
    while True:
        offset = place - at
        if offset + usual.most > len(held):
            ahead = next_ahead(ahead, data - at, offset + usual.most)
            held, at, offset = read(place, ahead), place, 0
        member = _read_usual(held, offset, place, size, usual)
        if member is None:
            found = _read_member(read, place, size, file, whole=whole)
            if found is None:
                return
            member, is_file = found
            usual = learn_usual(usual, read, member)
            if not is_file:
                place, data = member.end, member.data
                continue
        yield member
        place, data = member.end, member.data


def next_ahead(ahead: int, used: int, wanted: int) -> int:
    """How much to read for the next headers: what the last ones took, or more where a little more would have held these as well."""
    return max(ahead, wanted + BLOCK) if wanted <= _MOST_AHEAD else max(used, ahead - ahead // 32)


def _read_usual(held: bytes, offset: int, place: int, size: int, usual: Usual) -> Member | None:
    """The member whose headers stand at `offset` of the bytes held, at `place` of the archive; None where they are in any way unusual."""
    tail, rest, times, _ = usual
    data = place + BLOCK
    try:
        if times:
            skipped = skip_time(held, offset, times)
            offset, data = offset + skipped, data + skipped
        head, stated, end = PARTS.unpack_from(held, offset)
        if end != tail or (zlib.adler32(head) & 0xFFFF) + rest != stated_sum(stated):
            return None
        digits, stop = head[124:135], head.find(0)
        if not digits.isdigit() or head[135] not in b"\0 " or not 0 < stop <= 100 or head[stop - 1] == _SLASH:
            return None
        name, length = head[:stop].decode(), int(digits, 8)
    except (ValueError, IndexError, struct.error):
        return None  # the careful way says what is wrong
    if data + length > size:
        return None
    return tuple.__new__(Member, (name, place, data, length, data + (length + BLOCK - 1 & -BLOCK)))


def skip_time(held: bytes, offset: int, times: Times) -> int:
    """How many bytes at `offset` of those held are a pax header that says a time, and nothing else: two blocks, or none."""
    time = times.get(held[offset + 124 : offset + 136])
    if time is None:
        return 0
    header, record, length = time
    stands = held.startswith(header, offset) and held.startswith(record, offset + BLOCK)
    return 2 * BLOCK if stands and held[offset + BLOCK + length - 1] == _NEWLINE else 0


def learn_usual(usual: Usual, read: Read, member: Member) -> Usual:
    """What the next member's headers may repeat of this one's: a file's header, and before it a pax header of one short record."""
    header, extension = read(member.data - BLOCK, BLOCK), read(member.start, BLOCK)
    tail, field = header[156:], extension[124:136]
    if header[156] in _FILES and not header[345] and tail != usual.tail:
        usual = usual._replace(tail=tail, rest=(zlib.adler32(tail) & 0xFFFF) + 8 * ord(" ") - 2)  # Adler-32 counts from 1
    if extension[156] == ord("x") and member.data - member.start == 3 * BLOCK and len(usual.times) < _MOST_TIMES:
        length = _number(field)
        record = b"%d mtime=" % length
        # An empty header is followed by no record: what is compared with one would be the next member.
        if 0 < length < BLOCK and read(member.start + BLOCK, BLOCK).startswith(record):
            usual = usual._replace(times={**usual.times, field: (extension, record, length)}, most=3 * BLOCK)
    return usual


def _read_member(read: Read, place: int, size: int, file: Path, *, whole: bool) -> tuple[Member, bool] | None:
    """The member whose headers begin at `place`, and whether it is a file or a folder; None at the end."""
    begin = place
    said: _Said = {}  # by extension headers, of the member that follows them
    while place + BLOCK <= size:
        block = read(place, BLOCK)
        if block == _ZEROS:
            if begin != place:
                raise _broken(file, f"an extension header without its member at byte {begin}")
            return None
        length = _check_header(block, file, place)
        data = place + BLOCK
        if block[156] in _EXTENSIONS:
            if length > _LARGEST_EXTENSION or data + length > size:
                raise _broken(file, f"an extension header of {length} bytes at byte {place}")
            said |= _read_extension(block[156], read(data, length), file, place)
            place = data + _padded(length)
            continue
        name = said.get("path") or _member_name(block, file, place)
        length = 0 if block[156] == _FOLDER else said.get("size", length)  # a folder's size is no content
        if data + length > size:
            raise _broken(file, f"{length} bytes of content, {size - data} left", key=name)
        if block[156] not in _FILES and block[156] != _FOLDER:
            kind = _LINKS.get(block[156], f"a member of type {chr(block[156])!r}")
            raise DatasetError(Problem(str(file), kind, "regular files only", "pack the shard anew", key=name))
        return Member(name, begin, data, length, data + _padded(length)), block[156] != _FOLDER and not name.endswith("/")
    if whole:
        raise _broken(file, f"the archive ends at byte {size} without an end marker")
    return None


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _broken(file: Path, found: str, key: str = "") -> DatasetError:
    return DatasetError(Problem(str(file), found, "a whole tar archive", "fetch or pack the shard anew", key=key))


def _check_header(block: bytes, file: Path, place: int) -> int:
    """The size that a header states, once its checksum has been checked."""
    stated = stated_sum(block[148:156]) if len(block) == BLOCK else -1
    try:
        length = _number(block[124:136]) if stated >= 0 else -1
    except ValueError:
        length = -1
    # Adler-32 holds 1 + the sum of the bytes modulo 65521 in its lower half: a checksum at the speed of C.
    total = 1 + stated - 8 * ord(" ") + sum(block[148:156])
    if stated < 0 or length < 0 or zlib.adler32(block) & 0xFFFF != total % 65521:
        hint = "a gzip file" if place == 0 and block[:2] == b"\x1f\x8b" else f"no tar header at byte {place}"
        raise _broken(file, hint)
    return length


@lru_cache(maxsize=1 << 12)
def stated_sum(field: bytes) -> int:
    """The checksum that a header states; -1 where it states none. Few values are in use, so most are known."""
    try:
        return int(field.split(b"\0", 1)[0], 8)
    except ValueError:
        return -1


def _number(field: bytes) -> int:
    """A numeric field: octal text, or base-256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    if not digits.isdigit():  # int() would take signs and underscores
        raise ValueError
    return int(digits, 8)


def _member_name(block: bytes, file: Path, place: int) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0", 1)[0] + b"/" + name
    if not name:
        raise _broken(file, f"a member without a name at byte {place}")
    return _decoded(name, file)


def _decoded(name: bytes, file: Path) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise _broken(file, f"the member name {name!r} is not UTF-8") from None


def _read_extension(flag: int, content: bytes, file: Path, place: int) -> _Said:
    """What a pax or GNU header says of the member that follows."""
    if flag == ord("L"):
        return {"path": _decoded(content.split(b"\0", 1)[0], file)}
    if flag == ord("K"):
        return {}
    records = _pax_records(content, file, place)
    said: _Said = {}
    if "path" in records:
        said["path"] = _decoded(records["path"], file)
    if "size" in records:
        if not records["size"].isdigit() or len(records["size"]) > 18:
            raise _broken(file, f"a pax size of {records['size']!r:.40} at byte {place}")
        said["size"] = int(records["size"])
    if flag == ord("g") and said:
        raise _broken(file, f"a global pax header that names members at byte {place}")
    return said


def _pax_records(content: bytes, file: Path, place: int) -> dict[str, bytes]:
    records = {}
    content = content.rstrip(b"\0")
    start = 0
    try:
        while start < len(content):
            space = content.index(b" ", start)
            digits = content[start:space]
            stop = start + (int(digits) if digits.isdigit() and len(digits) < 10 else 0)
            if stop <= space or content[stop - 1 : stop] != b"\n":
                raise ValueError
            name, value = content[space + 1 : stop - 1].split(b"=", 1)
            records[name.decode()] = value
            start = stop
    except ValueError:
        raise _broken(file, f"a pax header that cannot be read at byte {place}") from None
    if any(name.startswith("GNU.sparse") for name in records):
        raise DatasetError(Problem(str(file), f"a sparse member at byte {place}", "regular files only", "pack the shard anew"))
    return records


def resize_headers(headers: bytes, size: int) -> bytes:
    """A member's headers with another size: names, times, owners and everything else as they were."""
    before, block = headers[:-BLOCK], bytearray(headers[-BLOCK:])
    if block[124] & 0x80:
        block[124:136] = b"\x80" + size.to_bytes(11, "big")
    else:
        last = block[135:136] if block[135] in b"\0 " else b"\0"
        block[124:136] = b"%011o" % size + last
    return _resize_pax(before, size) + _summed(block)


def _summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _resize_pax(headers: bytes, size: int) -> bytes:
    """Extension headers with the `size` of a pax record replaced, where one has it."""
    out, place = b"", 0
    while place < len(headers):
        block, length = bytearray(headers[place : place + BLOCK]), _number(headers[place + 124 : place + 136])
        content = headers[place + BLOCK : place + BLOCK + _padded(length)]
        place += BLOCK + len(content)
        records = _pax_records(content[:length], Path(), 0) if block[156] == ord("x") else {}
        if "size" in records:
            records["size"] = str(size).encode()
            content = b"".join(_pax_record(name.encode(), value) for name, value in records.items())
            block[124:135] = b"%011o" % len(content)
            block, content = bytearray(_summed(block)), pad_block(content)
        out += bytes(block) + content
    return out


def _pax_record(name: bytes, value: bytes) -> bytes:
    body = b" " + name + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):  # a record counts the digits of its own length
        length = len(body) + len(str(length))
    return str(length).encode() + body


def pad_block(content: bytes) -> bytes:
    """Content and zeros up to a whole block."""
    return content + bytes(_padded(len(content)) - len(content))


def make_header(name: str, size: int) -> bytes:
    """A ustar header of our own: mode 0644, owner 0, time 0; names of more than 100 bytes through a pax header."""
    raw = name.encode()
    record = pad_block(_pax_record(b"path", raw)) if len(raw) > 100 else b""
    before = _bare_header(b"pax", len(_pax_record(b"path", raw)), b"x") + record if record else b""
    return before + _bare_header(raw[:100], size, b"0")


def _bare_header(name: bytes, size: int, flag: bytes) -> bytes:
    block = bytearray(BLOCK)
    block[: len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = flag
    block[257:265] = b"ustar\x0000"
    return _summed(block)
