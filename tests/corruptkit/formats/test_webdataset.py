"""WebDataset shards: the samples that webdataset itself finds, cut out and patched by their bytes."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from corruptkit.errors import DatasetError
from corruptkit.formats.conditions import Columns
from corruptkit.formats.layout import Layout, Shard, Spot
from corruptkit.formats.webdataset import (
    IMAGE_SUFFIXES,
    member_at,
    open_shard,
    patch_shard,
    read_row,
    read_rows,
    read_samples,
    sample_row,
    scan_shard,
    split_name,
)
from tests.corruptkit.shards import make_rows, write_shards, write_tar
from tests.corruptkit.strategies import examples

USUAL = Layout()


def at(shard: Path, layout: Layout = USUAL) -> Shard:
    return Shard(shard, shard.parent, layout)


FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PLAIN = [("png", b"x"), ("txt", b"a cat"), ("cls", b"3"), ("json", b'{"caption": "a cat", "label": 3}')]


def pack_sample(folder: Path, members: Sequence[tuple[str, bytes]], name: str = "a.tar") -> Path:
    """A shard of members, each (whole name or suffix of sample "s", content)."""
    return write_tar(folder / name, [(name if "." in name else f"s.{name}", content) for name, content in members])


def keys_of(shard: Path, rule: str = "sample") -> list[str]:
    return scan_shard(at(shard, Layout(rule))).table["key"].to_pylist()


def refusal_of(shard: Path, layout: Layout = USUAL) -> str:
    with pytest.raises(DatasetError) as caught:
        scan_shard(at(shard, layout))
    text = str(caught.value)
    assert text.startswith(f"{shard}, ")
    assert text.count("; ") >= 1, "it says what to do"
    assert text.isprintable()
    return text


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a.seg.png", ("a", "seg.png")),
        ("A.JPG", ("A", "jpg")),
        ("a/b/c.JpG", ("a/b/c", "jpg")),
        ("v1.0/c.jpg", ("v1.0/c", "jpg")),
        ("./a.jpg", ("./a", "jpg")),
        ("/a.jpg", ("/a", "jpg")),
        ("a b.txt", ("a b", "txt")),
        ("a.", ("a", "")),
        ("日本.PNG", ("日本", "png")),
        ("README", None),
        ("v1.0/README", None),
        ("__meta__", None),
        ("__a.b__", None),
        ("x/__a.b__", ("x/__a", "b__")),
        ("__a.json", ("__a", "json")),
    ],
)
def test_name_is_a_stem_and_a_suffix(name: str, expected: tuple[str, str] | None) -> None:
    assert split_name(name) == expected


@pytest.mark.parametrize("name", [".hidden", "a/.hidden.txt"])
def test_empty_stem_is_refused(tmp_path: Path, name: str) -> None:
    shard = write_tar(tmp_path / "a.tar", [(name, b"x")])
    with pytest.raises(DatasetError, match=r"an empty key, expected a name before the first dot; rename the member"):
        scan_shard(at(shard))


@pytest.mark.parametrize("name", ["._000.jpg", "a/._000.jpg", "./.DS_Store"])
def test_leavings_of_macos_belong_to_no_sample(name: str) -> None:
    assert split_name(name) is None


# Samples

_stems = st.sampled_from(["a", "b", "c", "a/a", "v1.0/a", "é", "x" * 80 + "/" + "y" * 80])
_suffixes = st.sampled_from(["jpg", "JPG", "txt", "cls", "seg.png", "json2", "", "Txt2"])
_extra = st.sampled_from(["README", "__meta__", "folder/"])


@examples(120)
@given(
    samples=st.lists(st.tuples(_stems, st.lists(_suffixes, min_size=1, max_size=4, unique_by=str.lower)), max_size=5),
    extra=st.lists(st.tuples(st.integers(0, 20), _extra), max_size=2),
    form=st.sampled_from(FORMS),
)
def test_samples_are_those_of_webdataset(tmp_path: Path, samples: list, extra: list, form: int) -> None:
    """Neighbours with one stem are one sample; webdataset lets a stem come again later, as the scan does (the index refuses it)."""
    apart = [sample for number, sample in enumerate(samples) if number == 0 or sample[0] != samples[number - 1][0]]
    members = [
        (f"{stem}.{suffix}", b"7" if suffix == "cls" else f"{stem} {suffix}".encode()) for stem, suffixes in apart for suffix in suffixes
    ]
    for place, name in extra:
        members.insert(min(place, len(members)), (name.rstrip("/"), b"x"))
    shard = write_tar(tmp_path / "a.tar", members, form=form)
    theirs = [
        {name: value for name, value in sample.items() if name not in ("__url__", "__local_path__")}
        for sample in wds.WebDataset(str(shard), shardshuffle=False, empty_check=False)
    ]
    assert [sample for _, sample in read_samples(at(shard), {})] == theirs
    assert keys_of(shard) == [sample["__key__"] for sample in theirs]


@pytest.mark.parametrize("form", FORMS)
def test_sample_is_cut_out_by_its_bytes(tmp_path: Path, form: int) -> None:
    rows = [row._replace(key=f"{'ééééééé/' * n}{row.key}") for n, row in enumerate(make_rows(5))]
    shard = next(write_shards(tmp_path, rows, shards=1, form=form).glob("*.tar"))
    table = scan_shard(at(shard)).table
    everyone = [row for _, row in read_rows(at(shard), {})]
    for number in (4, 0, 2):
        place, length = table["offset"][number].as_py(), table["length"][number].as_py()
        assert read_row(at(shard), Spot(number, place, length, number), None) == everyone[number]
    with pytest.raises(DatasetError, match=r"no sample at byte .*the source has changed: plan again"):
        read_row(at(shard), Spot(0, shard.stat().st_size - 1024, 1024, 0), None)
    assert table["position"].to_pylist() == [0, 1, 2, 3, 4]


def test_rows_have_conditions_as_they_stand(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"x"),
        ("b.jpg", b"x"),
        ("b.txt", b""),
        ("c.cls", b" 07\n"),
        ("c.txt", b"\xef\xbb\xbfx\n"),
        ("d.json", b'{"label": "5"}'),
    ]
    table = scan_shard(at(write_tar(tmp_path / "a.tar", members))).table
    assert table["label"].to_pylist() == [-1, -1, 7, 5]
    assert table["caption"].to_pylist() == [None, "", "\ufeffx\n", None]


def test_digest_covers_headers_and_conditions_and_no_image(tmp_path: Path) -> None:
    def digest_of(**changes: bytes) -> str:
        members = {"a.png": b"image", "a.txt": b"a cat", "a.cls": b"1", "b.png": b"image"}
        shard = write_tar(
            tmp_path / "a.tar", [(changes.get(name, name), changes.get(name.replace(".", "_"), value)) for name, value in members.items()]
        )
        return scan_shard(at(shard)).digest

    assert digest_of() == digest_of() == digest_of(a_png=b"IMAGE")
    assert len({digest_of(), digest_of(a_png=b"longer image"), digest_of(a_txt=b"a dog"), digest_of(a_cls=b"2")}) == 4


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("txt", b"a"), ("txt", b"b")], "s: two members .txt, expected one of each suffix; rename one of them"),
        ([("txt", b"a"), ("TXT", b"b")], "s: two members .txt"),
        ([("s.", b"a"), ("s.", b"b")], "s: two members ., expected one of each suffix"),
        ([("jpg", b"a"), (".hidden", b"b")], ".hidden: an empty key"),
        ([("a\x1b[31m.jpg", b"a")], r"a\x1b[31m: a control character"),
        ([("a\n.jpg", b"a")], r"a\x0a: a control character"),
        ([("/a.jpg", b"a")], "/a: a key that leaves its folder"),
        ([("../a.jpg", b"a")], "../a: a key that leaves its folder"),
        ([("a/../b.jpg", b"a")], "a/../b: a key that leaves its folder"),
        ([("cls", b"cat")], "s: found the label 'cat', expected a label as a non-negative integer"),
        ([("cls", b"\x1b[31m\xff")], r"s: found the label '\x1b[31m\\xff'"),
        ([("txt", b"caf\xe9")], "s: found a caption that is not UTF-8 at byte 3"),
        ([("json", b"{")], "s: found a .json member that cannot be read"),
        ([("json", rb'{"caption": "\ud800"}')], "s: found a caption with a lone surrogate"),
    ],
)
def test_sample_that_cannot_be_is_refused_in_one_line(tmp_path: Path, members: list[tuple[str, bytes]], said: str) -> None:
    assert said in refusal_of(pack_sample(tmp_path, members))


@pytest.mark.parametrize("suffix", ["txt", "cls", "json"])
def test_condition_of_ten_gigabytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """The member is a hole in a sparse file: read, it would fill the memory; an image of that size is only stepped over."""
    shard = sparse_shard(tmp_path, suffix)
    lengths = []
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, place: lengths.append(length) or whole(descriptor, length, place))
    assert "10737418240 bytes, expected at most 16 MiB of text or JSON" in refusal_of(shard)
    assert scan_shard(at(sparse_shard(tmp_path, "png"))).table["key"].to_pylist() == ["s"]
    assert max(lengths) <= 1 << 20


def sparse_shard(folder: Path, suffix: str) -> Path:
    info = tarfile.TarInfo(f"s.{suffix}")
    info.size = 10 << 30
    with (folder / f"{suffix}.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(file.tell() + info.size + 1024)
    return folder / f"{suffix}.tar"


def test_missing_shard_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match=r"a\.tar: cannot be read: No such file or directory; mend the path or its permissions"),
        open_shard(tmp_path / "a.tar"),
    ):
        pass


# Keys


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        ("sample", ["x/0", "y/0"]),
        ("stem", ["0", "0"]),
        ("shard/key", ["part-1/x/0", "part-1/y/0"]),
        ("ordinal", ["row-000000000000", "row-000000000001"]),
        ("regex:^(.)/", ["x", "y"]),
        ("json:id", ["17", "é"]),
    ],
)
def test_key_rule_names_the_rows(tmp_path: Path, rule: str, keys: list[str]) -> None:
    members = [
        ("x/0.json", b'{"id": 17, "n": null}'),
        ("x/0.txt", b"a"),
        ("y/0.txt", b"b"),
        ("y/0.json", '{"id": "no", "id": "é"}'.encode()),
    ]
    assert keys_of(write_tar(tmp_path / "part-1.tar", members), rule) == keys


@pytest.mark.parametrize("content", [None, b"{}", b'{"id": null}', b'{"id": 1.5}', b'{"id": true}', b'{"id": ["a"]}', b'{"ID": "a"}'])
def test_json_without_the_keys_field_is_refused(tmp_path: Path, content: bytes | None) -> None:
    shard = pack_sample(tmp_path, [("txt", b"a"), *([] if content is None else [("json", content)])])
    assert "s: no text or integer field 'id' in the .json, expected a key in every sample" in refusal_of(shard, Layout("json:id"))


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_key_in_a_broken_json_is_refused(tmp_path: Path, content: bytes) -> None:
    shard = pack_sample(tmp_path, [("txt", b"a"), ("cls", b"1"), ("json", content)])
    refusal_of(shard, Layout("json:id"))


def test_key_with_a_lone_surrogate_is_refused(tmp_path: Path) -> None:
    """It has no UTF-8, so no digest could name it."""
    refusal_of(pack_sample(tmp_path, [("txt", b"a"), ("cls", b"1"), ("json", rb'{"id": "a\ud800"}')]), Layout("json:id"))


# Rows


def test_row_has_the_fields_and_the_other_members() -> None:
    loaded = {"__key__": "s", "seg.png": b"seg", "jpg": b"image", "txt": b"a cat", "cls": b"3", "json": b"{}", "npy": b"n"}
    row = sample_row("key", loaded, Columns())
    assert row == {"key": "key", "image": b"image", "label": 3, "caption": "a cat", "seg.png": b"seg", "json": b"{}", "npy": b"n"}


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_image_has_any_usual_suffix(suffix: str) -> None:
    assert sample_row("s", {"__key__": "s", suffix: b"x"}, Columns()) == {"key": "s", "image": b"x"}


def test_first_image_is_the_image() -> None:
    assert sample_row("s", {"__key__": "s", "webp": b"1", "png": b"2"}, Columns()) == {"key": "s", "image": b"1", "png": b"2"}


def test_members_named_like_fields_do_not_replace_them() -> None:
    loaded = {"__key__": "s", "png": b"x", "txt": b"a cat", "cls": b"3", "key": b"K", "image": b"I", "label": b"L", "caption": b"C"}
    row = sample_row("s", loaded, Columns())
    assert {name: row[name] for name in ("key", "image", "label", "caption")} == {"key": "s", "image": b"x", "label": 3, "caption": "a cat"}


def test_stated_columns_take_the_place_of_the_usual() -> None:
    loaded = {"__key__": "s", "png": b"x", "txt": b"a cat", "alt": b"another", "cls": b"3", "fine": b"77"}
    row = sample_row("s", loaded, Columns("fine", "alt"))
    assert row == {"key": "s", "image": b"x", "label": 77, "caption": "another", "txt": b"a cat", "cls": b"3"}


# Patches


def patch_all(shard: Path, edits: dict, below: dict | None = None) -> list:
    return list(patch_shard(at(shard), edits, below))


def apply_patches(shard: Path, patches: list) -> bytes:
    data, out, place = shard.read_bytes(), b"", 0
    for patch in patches:
        out, place = out + data[place : patch.start] + patch.content, patch.end
    return out + data[place:]


def test_patches_replace_the_members_that_hold_a_field(tmp_path: Path) -> None:
    shard = pack_sample(tmp_path, PLAIN)
    patches = patch_all(shard, {"s": {"caption": ("a cat", "another cat"), "label": ("3", "12")}})
    assert [(patch.key, patch.name) for patch in patches] == [("s", "s.txt"), ("s", "s.cls"), ("s", "s.json")]
    after = tmp_path / "after.tar"
    after.write_bytes(apply_patches(shard, patches))
    expected = dict(PLAIN) | {"txt": b"another cat", "cls": b"12", "json": b'{"caption": "another cat", "label": 12}'}
    assert [sample for _, sample in read_samples(at(after), {})] == [{"__key__": "s"} | expected]
    data = shard.read_bytes()
    assert [patch.original for patch in patches] == [data[patch.start : patch.end] for patch in patches]
    assert patch_all(shard, {}) == []


def test_overlay_below_is_the_source(tmp_path: Path) -> None:
    """`original` is the member as the overlay reads it; a member that only the overlay changes has none."""
    shard = pack_sample(tmp_path, PLAIN)
    below = {"s": {"caption": ("a cat", "a dog"), "label": ("3", "4")}}
    patches = patch_all(shard, {"s": {"caption": ("a dog", "a fish")}}, below)
    assert [(patch.name, patch.original is None) for patch in patches] == [("s.txt", False), ("s.cls", True), ("s.json", False)]
    after = tmp_path / "after.tar"
    after.write_bytes(apply_patches(shard, patches))
    ((_, sample),) = read_samples(at(after), {})
    assert (sample["txt"], sample["cls"], sample["json"]) == (b"a fish", b"4", b'{"caption": "a fish", "label": 4}')
    assert b"a dog" in patches[0].original


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"s": {"caption": ("a dog", "x")}}, "s: found the caption 'a cat', expected 'a dog'; the source has changed: plan again"),
        ({"s": {"label": ("4", "5")}}, "s: found the label '3', expected '4'"),
        ({"t": {"label": ("4", "5")}}, "t: found the sample is not there"),
    ],
)
def test_edit_of_another_value_is_refused(tmp_path: Path, edits: dict, said: str) -> None:
    shard = pack_sample(tmp_path, PLAIN)
    with pytest.raises(DatasetError) as caught:
        patch_all(shard, edits)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"[1, 2]", b'"text"', b"null"])
def test_json_that_is_no_object_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """Boxes beside .txt and .cls, say."""
    shard = pack_sample(tmp_path, [*PLAIN[:3], ("json", content)])
    edit = {"s": {"caption": ("a cat", "a dog")}}
    assert [patch.name for patch in patch_all(shard, edit)] == ["s.txt"]
    ((_, sample),) = read_samples(at(shard), edit)
    assert (sample["txt"], sample["json"]) == (b"a dog", content)


def test_broken_json_beside_both_conditions_is_no_traceback(tmp_path: Path) -> None:
    """It may hide the clean caption, so it may be refused, but in words."""
    shard = pack_sample(tmp_path, [*PLAIN[:3], ("json", b'{"caption": "a cat",}')])
    edit = {"s": {"caption": ("a cat", "a dog")}}
    for read in (lambda: patch_all(shard, edit), lambda: list(read_samples(at(shard), edit))):
        try:
            read()
        except DatasetError as error:
            assert "s" in str(error)  # noqa: PT017 - being left alone is as good


def test_byte_belongs_to_a_member(tmp_path: Path) -> None:
    shard = pack_sample(tmp_path, [("a.png", b"x" * 600), ("a.txt", b"a")])
    assert [member_at(shard, place) for place in (0, 600, 1535, 1536, 2559, 2560)] == [
        *["a.png"] * 3,
        *["a.txt"] * 2,
        "the end of the archive",
    ]


def test_label_beyond_64_bits_is_refused(tmp_path: Path) -> None:
    refusal_of(pack_sample(tmp_path, [("cls", b"9" * 19)]))
    table = scan_shard(at(pack_sample(tmp_path, [("cls", b"9" * 18)], "b.tar"))).table
    assert table["label"].combine_chunks() == pa.array([10**18 - 1])
