"""Tar archives: the walk finds what the standard library finds, rewritten members read back, broken archives are refused in one line."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.errors import DatasetError
from corruptkit.formats import tar
from corruptkit.formats.tar import BLOCK, Member, Window, make_header, pad_block, read_range, resize_headers, walk_members
from tests.corruptkit.strategies import examples

END = bytes(2 * BLOCK)
FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SHARD = Path("shard.tar")


class Entry(NamedTuple):
    """What to pack: a regular file, or a folder where `content` is None."""

    name: str
    content: bytes | None
    pax: dict[str, str] = {}  # noqa: RUF012 - never changed
    mtime: float = 0


def pack_entries(entries: Iterable[Entry], form: int = tarfile.PAX_FORMAT, shared: dict[str, str] | None = None) -> bytes:
    """An archive as the standard library writes it; `shared` are records of a global pax header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=shared) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mtime, info.pax_headers = entry.mtime, dict(entry.pax)
            if entry.content is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(entry.content)
            archive.addfile(info, io.BytesIO(entry.content or b""))
    return out.getvalue()


def reader_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda place, length: data[place : place + length]


def walk_archive(data: bytes, *, whole: bool = True) -> list[Member]:
    return list(walk_members(reader_of(data), len(data), SHARD, whole=whole))


def stdlib_members(data: bytes) -> list[Member]:
    """The regular files as the standard library sees them."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [info for info in archive if info.isfile()]
    return [Member(i.name, i.offset, i.offset_data, i.size, i.offset_data + -(-i.size // BLOCK) * BLOCK) for i in files]


def bare_block(name: bytes, size: int | bytes, flag: bytes, content: bytes = b"", **fields: tuple[int, bytes]) -> bytes:
    """A header block made by hand, and content; a size of bytes is the field itself, `fields` are (place, bytes) to overwrite."""
    block = bytearray(tar._bare_header(name, 0, flag))
    field = b"%011o\0" % size if isinstance(size, int) else size
    block[124 : 124 + len(field)] = field
    for place, value in fields.values():
        block[place : place + len(value)] = value
    return tar._summed(block) + pad_block(content)


def pax_block(*records: bytes) -> bytes:
    content = b"".join(records)
    return bare_block(b"pax", len(content), b"x", content)


def refusal_of(data: bytes, *, whole: bool = True) -> str:
    with pytest.raises(DatasetError) as caught:
        walk_archive(data, whole=whole)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("shard.tar")
    return text


# What the walk finds

_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_names = st.one_of(
    st.text(_characters, min_size=1, max_size=20),
    st.text("ab/.é😀", min_size=1, max_size=75),
    st.builds(lambda part, count: f"{part * count}.jpg", st.sampled_from(["a", "ab/", "é", "日/", "=\n", " "]), st.integers(1, 100)),
).filter(lambda name: not name.endswith("/") and len(name.encode()) <= 300)
_contents = st.one_of(st.none(), st.binary(max_size=20), st.integers(500, 1540).map(lambda size: b"x" * size))
_entries = st.builds(
    Entry,
    _names,
    _contents,
    st.dictionaries(st.sampled_from(["comment", "SCHILY.xattr.user.a", "atime"]), st.sampled_from(["1", "é=\n", "x" * 600]), max_size=2),
    st.sampled_from([0, 1_700_000_000, 1.5, 1 << 40]),
)


def fits_ustar(entry: Entry) -> bool:
    try:
        pack_entries([entry], tarfile.USTAR_FORMAT)
    except ValueError:  # too long a name, too late a time
        return False
    return True


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@examples(120)
@given(entries=st.lists(_entries, max_size=6))
def test_walk_finds_what_the_standard_library_finds(form: int, entries: list[Entry]) -> None:
    fitting = [entry for entry in entries if form != tarfile.USTAR_FORMAT or fits_ustar(entry)]
    data = pack_entries(fitting, form)
    found = walk_archive(data)
    assert found == stdlib_members(data)
    assert [(m.name, data[m.data : m.data + m.size]) for m in found] == [(e.name, e.content) for e in fitting if e.content is not None]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_long_name_is_read_in_each_form(form: int) -> None:
    name = "/".join(["d" * 70, "e" * 70, "f" * 70 + ".jpg"])
    data = pack_entries([Entry("a.txt", b"a"), Entry(name, b"b" * 600), Entry("c.txt", b"")], form)
    assert walk_archive(data) == stdlib_members(data)
    assert [member.name for member in walk_archive(data)] == ["a.txt", name, "c.txt"]


def test_global_header_belongs_to_the_member_after_it() -> None:
    data = pack_entries([Entry("a.txt", b"a"), Entry("b.txt", b"b")], shared={"comment": "packed by a test"})
    first, second = walk_archive(data)
    assert (first.name, first.start, second.name) == ("a.txt", 0, "b.txt")
    assert first.data - first.start == 3 * BLOCK, "global header, its records, header"


@pytest.mark.parametrize("flag", [b"0", b"\0", b"7"])
def test_every_regular_type_is_a_member(flag: bytes) -> None:
    data = bare_block(b"a.txt", 3, flag, b"abc") + END
    assert walk_archive(data) == stdlib_members(data) == [Member("a.txt", 0, BLOCK, 3, 2 * BLOCK)]


def test_old_folder_is_a_name_with_a_slash() -> None:
    data = bare_block(b"a/", 0, b"\0") + bare_block(b"a/b.txt", 1, b"\0", b"b") + END
    assert walk_archive(data) == stdlib_members(data)
    assert [member.name for member in walk_archive(data)] == ["a/b.txt"]


def test_size_of_a_folder_is_no_content() -> None:
    """POSIX lets a folder state a size, of which no block is stored."""
    members = [bare_block(b"d/%c.txt" % c, 1, b"0", b"%c" % c) for c in b"abc"]
    data = bare_block(b"d/", 1024, b"5") + b"".join(members) + END
    assert walk_archive(data) == stdlib_members(data)
    assert [member.name for member in walk_archive(data)] == ["d/a.txt", "d/b.txt", "d/c.txt"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_name_of_a_folder_is_not_the_next_members(form: int) -> None:
    data = pack_entries([Entry("é" * 80, None), Entry("a.txt", b"a")], form)
    assert walk_archive(data) == stdlib_members(data)
    assert [member.name for member in walk_archive(data)] == ["a.txt"]


def test_long_name_of_a_link_says_nothing_of_a_file() -> None:
    """GNU tar may write such a header for what is no link."""
    data = bare_block(b"././@LongLink", 4, b"K", b"to\0\0") + bare_block(b"a.txt", 1, b"0", b"a") + END
    assert walk_archive(data) == stdlib_members(data)
    assert walk_archive(data)[0] == Member("a.txt", 0, 3 * BLOCK, 1, 4 * BLOCK)


def test_pax_size_and_path_go_before_the_header() -> None:
    records = [tar._pax_record(b"path", "é.txt".encode()), tar._pax_record(b"size", b"5")]
    data = pax_block(*records) + bare_block(b"x", 0, b"0", b"12345") + END
    assert walk_archive(data) == stdlib_members(data) == [Member("é.txt", 0, 3 * BLOCK, 5, 4 * BLOCK)]


def test_size_in_base_256_is_read() -> None:
    data = bare_block(b"a.txt", b"\x80" + (3).to_bytes(11, "big"), b"0", b"abc") + END
    assert walk_archive(data) == stdlib_members(data)
    assert walk_archive(data)[0].size == 3


def test_what_follows_the_end_marker_is_not_read() -> None:
    data = pack_entries([Entry("a.txt", b"a")]) + b"not a tar header at all" * 100
    assert [member.name for member in walk_archive(data)] == ["a.txt"]


def test_range_cut_out_of_an_archive_needs_no_end_marker() -> None:
    data = pack_entries([Entry("a.txt", b"a"), Entry("b.txt", b"b" * 600), Entry("c.txt", b"c")])
    _, second, _ = walk_archive(data)
    found = list(walk_members(reader_of(data[: second.end]), second.end, SHARD, second.start, whole=False))
    assert found == [second]


@pytest.mark.parametrize("ahead", [1, 511, 512, 8192, 1 << 20])
def test_window_gives_the_bytes_whatever_it_reads_ahead(tmp_path: Path, ahead: int) -> None:
    data = pack_entries([Entry(f"{'é' * n}.txt", b"x" * (n * 97)) for n in range(40)])
    (tmp_path / "a.tar").write_bytes(data)
    descriptor = os.open(tmp_path / "a.tar", os.O_RDONLY)
    try:
        window = Window(descriptor, ahead)
        assert list(walk_members(window.read, len(data), SHARD)) == stdlib_members(data)
        for place, length in ((0, 5), (3, 700), (1, 1), (len(data) - 2, 10), (len(data), 4), (100, 0)):
            assert window.read(place, length) == data[place : place + length]
    finally:
        os.close(descriptor)


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, place: whole(descriptor, min(length, 7), place))
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        assert read_range(descriptor, 10, 60) == bytes(range(10, 70))
        assert read_range(descriptor, 90, 60) == bytes(range(90, 100))
    finally:
        os.close(descriptor)


# A member written anew


def rewrite_members(data: bytes, contents: dict[int, bytes]) -> bytes:
    """The archive with the content of some members replaced, by their number."""
    out, place = b"", 0
    for number, member in enumerate(walk_archive(data)):
        content = contents.get(number)
        if content is not None:
            out += data[place : member.start] + resize_headers(data[member.start : member.data], len(content)) + pad_block(content)
            place = member.end
    return out + data[place:]


def describe_members(data: bytes) -> list[tuple[dict, bytes | None]]:
    """Everything the standard library reads of each member but its places and its size, and its content."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            file = archive.extractfile(info)
            shown = {name: value for name, value in info.get_info().items() if name not in ("size", "chksum")}
            shown["pax"] = {name: value for name, value in info.pax_headers.items() if name != "size"}
            found.append((shown, None if file is None else file.read()))
    return found


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@examples(100)
@given(entries=st.lists(_entries, min_size=1, max_size=5), data=st.data())
def test_rewritten_members_read_back_with_all_else_as_it_was(form: int, entries: list[Entry], data: st.DataObject) -> None:
    fitting = [entry for entry in entries if form != tarfile.USTAR_FORMAT or fits_ustar(entry)]
    before = pack_entries(fitting, form)
    files = [number for number, entry in enumerate(e for e in fitting if e.content is not None)]
    new = data.draw(st.dictionaries(st.sampled_from(files), st.binary(max_size=1100), max_size=3)) if files else {}
    after = rewrite_members(before, new)
    contents = [entry.content for entry in fitting]
    places = [number for number, entry in enumerate(fitting) if entry.content is not None]
    for number, content in new.items():
        contents[places[number]] = content
    expected = [(shown, content) for (shown, _), content in zip(describe_members(before), contents, strict=True)]
    assert describe_members(after) == expected
    assert walk_archive(after) == stdlib_members(after)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 98, 99, 511, 512, 513, 99_999])
def test_pax_size_follows_the_content(size: int) -> None:
    """A record counts its own digits, so it may grow by more than the number does."""
    entries = [Entry("a" * 120 + ".txt", b"abc", {"size": "3", "comment": "stays"}), Entry("b.txt", b"b")]
    after = rewrite_members(pack_entries(entries), {0: b"n" * size})
    (first, content), (second, rest) = describe_members(after)
    assert (first["name"], first["pax"]["comment"], content) == (entries[0].name, "stays", b"n" * size)
    assert (second["name"], rest) == ("b.txt", b"b")
    assert walk_archive(after)[0].size == size


@pytest.mark.parametrize(
    "field",
    [
        b"00000000017\0",
        b"00000000017 ",
        b"000000000017",
        b"     17\0\0\0\0\0",
        b"17\0\0\0\0\0\0\0\0\0\0",
        b"\x80" + (15).to_bytes(11, "big"),
    ],
    ids=["NUL", "space", "twelve digits", "leading spaces", "short", "base 256"],
)
@pytest.mark.parametrize("size", [0, 8, 700])
def test_size_field_of_every_spelling_is_resized(field: bytes, size: int) -> None:
    before = bare_block(b"a.txt", field, b"0", b"0123456789abcde") + bare_block(b"b.txt", 1, b"0", b"b") + END
    assert [member.size for member in walk_archive(before)] == [15, 1]
    after = rewrite_members(before, {0: b"n" * size})
    assert [(shown["name"], content) for shown, content in describe_members(after)] == [("a.txt", b"n" * size), ("b.txt", b"b")]
    assert walk_archive(after) == stdlib_members(after)


@pytest.mark.parametrize("name", ["a.txt", "a" * 100, "a" * 101, "é" * 50, "é" * 51, "😀" * 70])
@pytest.mark.parametrize("size", [0, 1, 512, 1 << 20])
def test_header_of_our_own_is_read_by_the_standard_library(name: str, size: int) -> None:
    data = make_header(name, size) + pad_block(b"x" * size) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (info,) = archive.getmembers()
    assert (info.name, info.size, info.mode, info.mtime, info.uid) == (name, size, 0o644, 0, 0)
    assert walk_archive(data) == stdlib_members(data)


# What is refused

WHOLE = pack_entries([Entry("a.txt", b"abc"), Entry("b.txt", b"b" * 2000)])
LONG = pack_entries([Entry("é" * 80, b"abc")])
TEN_GIGABYTES = b"\x80" + (10 << 30).to_bytes(11, "big")
COMMENT = pax_block(tar._pax_record(b"comment", b"x"))
BROKEN = {
    "an empty file": (b"", "the archive ends at byte 0 without an end marker"),
    "no end marker": (WHOLE[: 7 * BLOCK], "the archive ends at byte 3584 without an end marker"),
    "cut in a header": (WHOLE[: 2 * BLOCK + 100], "the archive ends at byte 1124 without an end marker"),
    "cut in a content": (WHOLE[: 4 * BLOCK], "b.txt: 2000 bytes of content, 512 left"),
    "cut in a padding": (WHOLE[: 7 * BLOCK - 10], "without an end marker"),
    "a gzip file": (gzip.compress(WHOLE, 0), "a gzip file"),
    "text": (b"not a tar" * 100, "no tar header at byte 0"),
    "a changed bit in a header": (WHOLE[:1030] + bytes([WHOLE[1030] ^ 1]) + WHOLE[1031:], "no tar header at byte 1024"),
    "a changed checksum": (WHOLE[:148] + b"7" + WHOLE[149:], "no tar header at byte 0"),
    "a negative size": (bare_block(b"a.txt", b"-0000000001\0", b"0") + END, "no tar header at byte 0"),
    "a size that is no number": (bare_block(b"a.txt", b"0000000000x\0", b"0") + END, "no tar header at byte 0"),
    "a size with an underscore": (bare_block(b"a.txt", b"1_7\0\0\0\0\0\0\0\0\0", b"0", b"a" * 15) + END, "no tar header at byte 0"),
    "a negative size in base 256": (bare_block(b"a.txt", b"\xff" * 12, b"0") + END, "bytes of content"),
    "ten gigabytes that are not there": (
        bare_block(b"a.txt", TEN_GIGABYTES, b"0") + END,
        "10737418240 bytes of content, 1024 left",
    ),
    "a member without a name": (bare_block(b"", 1, b"0", b"a") + END, "a member without a name at byte 0"),
    "a name that is not UTF-8": (bare_block(b"a\xff.txt", 1, b"0", b"a") + END, r"the member name b'a\xff.txt' is not UTF-8"),
    "a long name that is not UTF-8": (bare_block(b"L", 3, b"L", b"\xff\xfe\0") + WHOLE, "is not UTF-8"),
    "a pax path that is not UTF-8": (pax_block(tar._pax_record(b"path", b"\xff")) + WHOLE, "is not UTF-8"),
    "a hard link": (bare_block(b"a.txt", 0, b"1") + END, "a.txt: a hard link, expected regular files only"),
    "a symbolic link": (bare_block(b"a.txt", 0, b"2") + END, "a.txt: a symbolic link"),
    "a character device": (bare_block(b"a.txt", 0, b"3") + END, "a.txt: a character device"),
    "a block device": (bare_block(b"a.txt", 0, b"4") + END, "a.txt: a block device"),
    "a FIFO": (bare_block(b"a.txt", 0, b"6") + END, "a.txt: a FIFO"),
    "a sparse member of GNU": (bare_block(b"a.txt", 0, b"S") + END, "a.txt: a sparse member"),
    "a sparse member of pax": (pax_block(tar._pax_record(b"GNU.sparse.size", b"9")) + WHOLE, "a sparse member at byte 0"),
    "an unknown type": (bare_block(b"a.txt", 0, b"Z") + END, "a.txt: a member of type 'Z'"),
    "a pax header alone": (COMMENT + END, "an extension header without its member at byte 0"),
    "a pax header at the end": (
        WHOLE[: 7 * BLOCK] + COMMENT + END,
        "an extension header without its member at byte 3584",
    ),
    "a pax header that is cut": (LONG[: BLOCK + 10], "an extension header of 170 bytes at byte 0"),
    "a pax header of two megabytes": (
        bare_block(b"p", 2 << 20, b"x", bytes(2 << 20)) + WHOLE,
        "an extension header of 2097152 bytes at byte 0",
    ),
    "a pax record without a length": (pax_block(b"path=a\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax record of another length": (pax_block(b"99 path=a\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax record of length 0": (pax_block(b"0 path=a\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax record of negative length": (pax_block(b"-9 path=a\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax record with an underscore": (pax_block(b"1_1 path=a\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax record without a value": (pax_block(b"8 patha\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax record named in no UTF-8": (pax_block(b"8 \xff\xfe=a\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax length of a thousand digits": (pax_block(b"9" * 5000 + b" a=b\n") + WHOLE, "a pax header that cannot be read at byte 0"),
    "a pax size that is no number": (pax_block(tar._pax_record(b"size", b"-1")) + WHOLE, "a pax size of b'-1' at byte 0"),
    "a pax size beyond all disks": (pax_block(tar._pax_record(b"size", b"9" * 40)) + WHOLE, "a pax size of b'999"),
    "a pax size past the end": (pax_block(tar._pax_record(b"size", b"10737418240")) + WHOLE, "10737418240 bytes of content"),
    "a global header with a path": (
        pack_entries([Entry("a.txt", b"a")], shared={"path": "b.txt"}),
        "a global pax header that names members",
    ),
    "a global header with a size": (pack_entries([Entry("a.txt", b"a")], shared={"size": "1"}), "a global pax header that names members"),
}


@pytest.mark.parametrize(("data", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_archive_is_refused_in_one_line(data: bytes, said: str) -> None:
    text = refusal_of(data)
    assert said in text
    assert text.endswith(("fetch or pack the shard anew", "pack the shard anew"))


@examples(150)
@given(place=st.integers(0, len(LONG + WHOLE) - 1), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_refused_or_harmless(place: int, bit: int, cut: bool) -> None:
    """No damage of an archive ends in anything but members inside it or a DatasetError."""
    whole = LONG[: 4 * BLOCK] + WHOLE
    data = whole[:place] if cut else whole[:place] + bytes([whole[place % len(whole)] ^ 1 << bit]) + whole[place + 1 :]
    found: list[Member] = []
    with contextlib.suppress(DatasetError):
        found += walk_archive(data)
    assert all(0 <= m.start < m.data <= m.data + m.size <= min(m.end, len(data)) for m in found)


@pytest.mark.parametrize("claim", [10 << 30, 1 << 60])
def test_no_claimed_size_makes_the_walk_read_much(claim: int) -> None:
    """A reader that is asked for more than a pax header's limit fails the test; the file seems to be as large as is claimed."""
    asked = []
    data = bare_block(b"a.bin", b"\x80" + claim.to_bytes(11, "big"), b"0")

    def read(place: int, length: int) -> bytes:
        asked.append(length)
        return data[place : place + length] if place < len(data) else bytes(length)

    (member,) = walk_members(read, claim + 4 * BLOCK, SHARD)
    assert member.size == claim
    assert max(asked) <= 32 * BLOCK  # a look ahead, whatever a header claims


def test_header_of_many_records_is_read_whole() -> None:
    """A hostile header of 100,000 records is still read whole, the last record of a name being the one that counts."""
    records = [tar._pax_record(b"path", b"no.txt")] + [b"6 a=b\n"] * 100_000 + [tar._pax_record(b"path", b"yes.txt")]
    data = pax_block(*records) + bare_block(b"x", 1, b"0", b"a") + END
    assert [member.name for member in walk_archive(data)] == ["yes.txt"]


def walk_or_refusal(data: bytes) -> tuple[list[Member], str]:
    """What a walk finds, and what it says where it stops early."""
    members: list[Member] = []
    try:
        members.extend(walk_members(reader_of(data), len(data), SHARD))
    except DatasetError as error:
        return members, str(error)
    return members, ""


ALIKE = [Entry(f"{n:05d}.{suffix}", b"x" * n, mtime=n / 4) for n in range(6) for suffix in ("jpg", "txt")]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@examples(400)
@given(place=st.integers(0, 1 << 15), byte=st.integers(0, 255), other=st.integers(0, 511), more=st.integers(-1, 255))
def test_short_way_says_what_the_careful_one_says(form: int, place: int, byte: int, other: int, more: int) -> None:
    """Members that repeat one another, with one or two bytes of a header changed, the checksum made right again or not."""
    data = bytearray(pack_entries(ALIKE, form))
    place %= len(data) - 2 * BLOCK
    data[place] = byte
    block = place - place % BLOCK
    if more >= 0:
        data[block + other] = more
        data[block + 148 : block + 156] = b" " * 8
        data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + BLOCK])
    found = walk_or_refusal(bytes(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar, "_read_usual", lambda *_: None)
        assert found == walk_or_refusal(bytes(data))


def last_byte(block: bytes, byte: int) -> bytes:
    """A header with another last byte, under a checksum that fits."""
    return tar._summed(bytearray(block[:-1] + bytes([byte])))


@pytest.mark.parametrize("last", [b"\n", b"\0"])
def test_empty_pax_header_swallows_no_member(last: bytes) -> None:
    """A header of no records that ends as a record does, before members whose names begin as a record does."""
    empty = last_byte(tar._bare_header(b"pax", 0, b"x"), last[0])
    names = ["a.txt", "0 mtime=hidden.txt", "b.txt"]
    first, hidden, second = (make_header(name, 0) for name in names)
    data = empty + empty + first + empty + hidden + second + END
    assert [member.name for member in walk_archive(data)] == names
    assert [member.name for member in stdlib_members(data)] == names


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_usual_headers_go_the_short_way(form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    careful: list[int] = []
    read_member = tar._read_member

    def note(read: Callable[[int, int], bytes], place: int, size: int, file: Path, *, whole: bool) -> tuple[Member, bool] | None:
        careful.append(place)
        return read_member(read, place, size, file, whole=whole)

    monkeypatch.setattr(tar, "_read_member", note)
    assert len(walk_archive(pack_entries(ALIKE, form))) == len(ALIKE)
    assert len(careful) < len(ALIKE)
