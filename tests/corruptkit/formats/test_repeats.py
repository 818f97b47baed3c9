"""The short way through a shard says what the careful one says, and is taken wherever samples repeat one another."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.errors import DatasetError
from corruptkit.formats import repeats, tar, webdataset
from corruptkit.formats.conditions import Columns
from corruptkit.formats.layout import Layout, Rejects, Scan, Shard
from corruptkit.formats.tar import BLOCK, Read
from corruptkit.formats.webdataset import scan_shard
from tests.corruptkit.formats.test_tar import bare_block
from tests.corruptkit.strategies import examples

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
SUFFIXES = ("jpg", "txt", "cls", "json", "JPG", "seg.png", "png", "Txt", "npy", "b__", "")
Members = list[tuple[str, bytes]]


class Archive(bytes):
    """The bytes of a tar, which a failure shows by their members: as text they would be too much for Hypothesis."""

    __slots__ = ()

    def __repr__(self) -> str:
        headers = [place for place in range(0, len(self), BLOCK) if self[place + 257 : place + 262] == b"ustar"]
        return f"<{len(self)} bytes: {b' '.join(self[place : place + 30].rstrip(bytes(1)) for place in headers)!r:.2000}>"


class Packing(NamedTuple):
    """How an archive is packed: its form, the time of members (a fraction makes a pax header), its samples' stems and suffixes."""

    form: int
    time: float
    stem: str
    suffixes: tuple[str, ...]


def sample_of(packing: Packing, number: int, image: int, condition: int) -> Members:
    """A usual sample, its image of `image` bytes and its texts of about `condition`."""
    text = ("a cat " * (condition // 6 + 1) + str(number)).encode()
    contents = {"txt": text, "cls": b"%d" % number, "json": b'{"id": %d, "caption": "%s", "label": %d}' % (number, text, number)}
    stem = packing.stem.format(number)
    return [(f"{stem}.{suffix}", contents.get(suffix.lower(), b"x" * image)) for suffix in packing.suffixes]


# Contents that a member may have in place of its own.
ODD_CONTENTS = {
    "cls": [b"007", b" 7\n", b"\xef\xbb\xbf7", b"cat", b"", b"-1", b"9" * 18, b"9" * 19, b"\xd9\xa7", b"+1", b"1_0"],
    "txt": [b"", b"\xef\xbb\xbfa cat", b"caf\xe9", "日本".encode(), b"a\0b\n", b"x" * 70_000],
    "json": [
        b"{}",
        b"[1]",
        b"{",
        b'{"caption": "a dog"}',
        b'{"label": "5"}',
        b'\xef\xbb\xbf{"label": 3}',
        b'{"l\\u0061bel": 4}',
        rb'{"caption": "\ud800"}',
        b'{"id": "a/../b", "label": -1}',
        b'{"x": "%s"}' % (b"y" * 9000),
    ],
}
# What a name may become; the first is the sample's stem, the second the member's suffix.
ODD_NAMES = [
    "{0}.b.{1}",
    "{0}",
    "__{0}__.{1}",
    "_{0}.{1}",
    "._{0}.{1}",
    "v1.0/{0}.{1}",
    "./{0}.{1}",
    ".{1}",
    "/{0}.{1}",
    "../{0}.{1}",
    "é{0}.{1}",
]
ODD_NAMES += [
    "__{0}.{1}",
    "{0}.{1}x",
    "{0}x.{1}",
    "{0}.{1}.{1}",
    "d/.{1}",
    "a b\n{0}.{1}",
    "000000.{1}",
    "__{0}.{1}__",
    "d" * 88 + "/{0}.{1}",
    "é" * 70 + "/{0}.{1}",
]
ODD_NAMES += ["n" * (100 - len(suffix) - 1) + f".{suffix}" for suffix in ("jpg", "txt")]
TWISTS = ("missing", "shuffled", "twice", "upper", "extra", "header", "content", "content", "name", "names")


@st.composite
def odd_samples(draw: st.DrawFn, members: Members) -> tuple[Members, dict]:
    """A sample with something that the others do not have; and what its first member's header says otherwise."""
    twist, place = draw(st.sampled_from(TWISTS)), draw(st.integers(0, len(members) - 1))
    name, content = members[place]
    stem, _, suffix = name.partition(".")
    fields: dict = {}
    if twist == "missing":
        members = members[:place] + members[place + 1 :]
    elif twist == "shuffled":
        members = draw(st.permutations(members))
    elif twist == "twice":
        members = [*members, members[place]]
    elif twist == "upper":
        members = [*members[:place], (f"{stem}.{suffix.upper()}", content), *members[place + 1 :]]
    elif twist == "extra":
        members = [*members[:place], (draw(st.sampled_from(["README", "__meta__", f"{stem}", f"{stem}.extra"])), b"x"), *members[place:]]
    elif twist == "content" and suffix.lower() in ODD_CONTENTS:
        members = [*members[:place], (name, draw(st.sampled_from(ODD_CONTENTS[suffix.lower()]))), *members[place + 1 :]]
    elif twist == "name":
        members = [*members[:place], (draw(st.sampled_from(ODD_NAMES)).format(stem, suffix), content), *members[place + 1 :]]
    elif twist == "names":
        form = draw(st.sampled_from(ODD_NAMES))
        members = [(form.format(stem, name.partition(".")[2]), content) for name, content in members]
    else:
        values = {"mode": 0o400, "type": draw(st.sampled_from([b"\0", b"7", b"5", b"1"])), "uname": "somebody", "mtime": 1.25}
        field = draw(st.sampled_from(sorted(values)))
        fields = {field: values[field]}
    return members, fields


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    """An archive of samples that repeat one another, with odd ones among them."""
    packing = Packing(
        draw(st.sampled_from(list(FORMS.values()))),
        draw(st.sampled_from([0, 1_700_000_000, 1_700_000_000.25])),
        draw(st.sampled_from(["{:06d}", "{}", "n01_{}", "./{:04d}", "v1.0/{}", "é/{}", "x" * 90 + "{}"])),
        tuple(draw(st.lists(st.sampled_from(SUFFIXES), min_size=1, max_size=4, unique_by=str.lower))),
    )
    largest, condition = draw(st.sampled_from([0, 600, 9000, 30_000])), draw(st.sampled_from([0, 0, 600, 5000]))
    count = draw(st.integers(1, 30))
    odd = draw(st.sets(st.integers(0, count - 1), max_size=3))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=packing.form) as archive:
        for number in range(count):
            members, fields = sample_of(packing, number, number * 7919 % (largest + 1), number * 31 % (condition + 1)), {}
            if number in odd:
                members, fields = draw(odd_samples(members))
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.mtime, info.size = packing.time, len(content)
                for field, value in fields.items():
                    setattr(info, field, value)
                fields = {}
                if packing.form == tarfile.USTAR_FORMAT:
                    info.mtime = int(info.mtime)
                    if len(name.encode()) > 100 and "/" not in name:
                        info.name = name[-90:]
                try:
                    archive.addfile(info, io.BytesIO(content))
                except ValueError:  # a name that ustar cannot hold
                    continue
    return Archive(draw(damages(out.getvalue())))


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """Most archives as they are; some cut short, or with bytes of a header changed and the checksum made right again or not."""
    kind = draw(st.sampled_from(["none", "none", "cut", "byte", "field"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if kind == "none":
        return data
    headers = [place for place in range(0, len(data), BLOCK) if data[place + 257 : place + 262] == b"ustar"]
    changed, block = bytearray(data), draw(st.sampled_from(headers or [0]))
    place = draw(st.sampled_from([0, 4, 99, 100, 124, 134, 135, 148, 154, 156, 257, 345]) | st.integers(0, BLOCK - 1))
    changed[block + place] = draw(st.sampled_from(b"\0 /.89_-\xff") | st.integers(0, 255))
    if kind == "field":
        changed[block : block + BLOCK] = tar._summed(changed[block : block + BLOCK])
    return bytes(changed)


LAYOUTS = st.builds(
    Layout,
    st.sampled_from(["sample", "sample", "sample", "stem", "shard/key", "ordinal", "regex:([0-9]+)$", "json:id"]),
    st.sampled_from([Columns(), Columns(), Columns("label", "caption"), Columns("cls", "json"), Columns("JPG", "Txt", "png")]),
    st.just("webdataset"),
    st.sampled_from(["source", "source", "percent"]),
    st.sampled_from([(), (), ("label",), ("caption", "label")]),
)


def scan_or_refusal(shard: Shard, *, exclude: bool) -> Scan | str:
    try:
        return scan_shard(shard, exclude=exclude)
    except DatasetError as error:
        return str(error)


def scan_carefully(read: Read, size: int, shard: Shard, rejects: Rejects, found: repeats.Found) -> None:
    """A shard as the careful reader reads it alone, in one go."""
    webdataset._scan_carefully(webdataset.group_samples(read, size, shard, on_bad=rejects), read, shard, rejects, found)


def note_repeats(patch: pytest.MonkeyPatch) -> list[bytes]:
    """The stems of the samples that go the short way from now on."""
    taken: list[bytes] = []
    walk = repeats.walk_repeats

    def note(*given: object) -> Iterator[repeats.Repeat]:
        for sample in walk(*given):  # type: ignore[arg-type]
            taken.append(sample[0])
            yield sample

    patch.setattr(repeats, "walk_repeats", note)
    return taken


def usual_shard(folder: Path, packing: Packing, count: int, image: int, condition: int) -> Shard:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=packing.form) as archive:
        for number in range(count):
            for name, content in sample_of(packing, number, number * 7919 % (image + 1), number * 31 % (condition + 1)):
                info = tarfile.TarInfo(name)
                info.mtime, info.size = packing.time, len(content)
                archive.addfile(info, io.BytesIO(content))
    (folder / "a.tar").write_bytes(out.getvalue())
    return Shard(folder / "a.tar", folder)


@pytest.mark.parametrize("image", [0, 600, 9000, 60_000])
@pytest.mark.parametrize("condition", [0, 600, 20_000])
@pytest.mark.parametrize(
    "suffixes", [("jpg", "json", "txt"), ("txt", "jpg"), ("cls", "png", "seg.png"), ("json", "JPG"), ("npy",)], ids="-".join
)
@pytest.mark.parametrize(
    ("form", "time"),
    [("ustar", 0), ("gnu", 1_700_000_000), ("pax", 0), ("pax", 1_700_000_000.25)],
    ids=["ustar", "gnu", "pax", "pax times"],
)
def test_usual_samples_go_the_short_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, time: float, suffixes: tuple[str, ...], condition: int, image: int
) -> None:
    """All but the first and the last, whose end no header shows."""
    taken = note_repeats(monkeypatch)
    shard = usual_shard(tmp_path, Packing(FORMS[form], time, "n01_{:05d}", suffixes), 40, image, condition)
    table = scan_shard(shard).table
    assert table["key"].to_pylist() == [f"n01_{number:05d}" for number in range(40)]
    assert [stem.decode() for stem in taken] == table["key"].to_pylist()[1:-1]


def test_each_byte_of_a_usual_shard_is_read_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read a sample where images are large, and of little more than headers and texts."""
    lengths: list[int] = []
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, place: lengths.append(length) or whole(descriptor, length, place))
    scan_shard(usual_shard(tmp_path, Packing(FORMS["pax"], 0, "{:05d}", ("jpg", "json", "txt")), 100, 60_000, 300))
    assert len(lengths) < 130
    assert sum(lengths) < 130 * 8 * BLOCK


def usual_block(name: bytes, content: bytes, **fields: tuple[int, bytes]) -> bytes:
    return bare_block(name, len(content), b"0", content, **fields)


# A member that stands where a usual one is expected, which the short way must not take for one.
ODD_MEMBERS = {
    "size with an underscore": ("txt", usual_block(b"x.txt", b"a cat", digits=(124, b"0000_000005"))),
    "size with a sign": ("txt", usual_block(b"x.txt", b"a cat", digits=(124, b"+0000000005"))),
    "size with an 8": ("txt", usual_block(b"x.txt", b"a cat", digits=(124, b"00000000008"))),
    "size in base 256": ("txt", usual_block(b"x.txt", b"a cat", digits=(124, b"\x80" + bytes(10) + b"\5"))),
    "size of 12 digits": ("txt", usual_block(b"x.txt", b"a cat", digits=(135, b"7"))),
    "name within underscores": ("txt__", usual_block(b"__x.txt__", b"a cat")),
    "name with two dots": ("txt", usual_block(b"x.y.txt", b"a cat")),
    "name with a control character": ("txt", usual_block(b"x\x1fy.txt", b"a cat")),
    "name that leads out": ("txt", usual_block(b"../x.txt", b"a cat")),
    "name that NUL ends": ("txt", usual_block(b"x\0y.txt", b"a cat")),
    "folder that NUL ends": ("txt", usual_block(b"x\0y/z.txt", b"a cat")),
    "name of 100 bytes": ("txt", usual_block(b"x" * 96 + b".txt", b"a cat")),
    "name that the mode seems to continue": ("0000644", usual_block(b"x" * 99 + b".", b"a cat")),
    "name that the mode seems to end": ("txt0", usual_block(b"x" * 96 + b".txt", b"a cat", mode=(100, b"0\0"))),
    "caption of 70 kB": ("txt", usual_block(b"x.txt", b"x" * 70_000)),
    "checksum of another header": ("txt", usual_block(b"x.txt", b"a cat").replace(b"x.txt", b"y.txt")),
    "tail that the checksum is not of": ("txt", usual_block(b"x.txt", b"a cat").replace(b"ustar", b"ustas")),
    "tail of another header": ("txt", usual_block(b"x.txt", b"a cat", owner=(265, b"somebody"))),
}


@pytest.mark.parametrize("rule", ["sample", "ordinal"])
@pytest.mark.parametrize(("suffix", "odd"), ODD_MEMBERS.values(), ids=ODD_MEMBERS.keys())
def test_odd_member_among_usual_ones_is_read_with_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, odd: bytes, rule: str
) -> None:
    blocks = [usual_block(b"%06d.%s" % (number, suffix.encode()), b"a cat") for number in range(9)]
    file = tmp_path / "a.tar"
    file.write_bytes(b"".join([*blocks[:5], odd, *blocks[5:], bytes(2 * BLOCK)]))
    taken = note_repeats(monkeypatch)
    shard = Shard(file, tmp_path, Layout(rule))
    found = scan_or_refusal(shard, exclude=False)
    assert {b"000001", b"000002", b"000003"} <= set(taken)
    monkeypatch.setattr(webdataset, "_scan_samples", scan_carefully)
    assert found == scan_or_refusal(shard, exclude=False)


@examples(400)
@given(
    data=archives(),
    layout=LAYOUTS,
    skip=st.frozensets(st.integers(0, 30), max_size=2),
    first=st.sampled_from([0, 7]),
    exclude=st.booleans(),
)
def test_short_way_says_what_the_careful_one_says(
    tmp_path: Path, data: Archive, layout: Layout, skip: frozenset[int], first: int, exclude: bool
) -> None:
    file = tmp_path / "part-1.tar"
    file.write_bytes(data)
    shard = Shard(file, tmp_path, layout, first, skip)
    found = scan_or_refusal(shard, exclude=exclude)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webdataset, "_scan_samples", scan_carefully)
        assert found == scan_or_refusal(shard, exclude=exclude)
