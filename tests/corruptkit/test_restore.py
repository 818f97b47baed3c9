"""Restoring: the source's own bytes come back, however oddly they were spelt or packed, and nothing else is passed off as them."""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from corruptkit.cli import main
from corruptkit.dataset import Dataset
from corruptkit.errors import ConflictError, CorruptkitError, DatasetError, IntegrityError
from corruptkit.opening import open_dataset
from corruptkit.plan import Plan, make_plan
from corruptkit.recipe import parse_recipe
from corruptkit.restore import restore
from corruptkit.verify import verify
from corruptkit.write import Format, write_variant
from tests.corruptkit.damage import Json, chain_recipe, flip_bit, forge_variant, published_source, small_disk
from tests.corruptkit.shards import HIDDEN, make_rows, read_members, read_tree, write_shards

Parts = Sequence[tuple[str, bytes]]
ALL: list[Json] = [{"kind": "flip", "ratio": "1"}, {"kind": "swap", "ratio": "1"}]
TEXTS = ["one", "two", "three", "four", "five", "six"]


def plan_of(dataset: Dataset, *chain: Json, seed: str = "0") -> Plan:
    return make_plan(parse_recipe({"seed": seed, "chain": list(chain or ALL)}, "test"), dataset.index())


def make(source: Path, out: Path, *chain: Json, seed: str = "0", form: Format = "webdataset") -> Path:
    dataset = open_dataset(source)
    write_variant(dataset, plan_of(dataset, *chain, seed=seed), out, form)
    return out


def assert_restored(source: Path, *chain: Json) -> list[tuple[str, str, bytes]]:
    """Make a variant that differs, verify it against the source, take the source away, restore it to the byte; the variant's members."""
    variant = make(source, source.parent / "variant", *chain)
    assert verify(variant, source=source, deep=True).problems == ()
    members, expected = read_members(variant), read_tree(source)
    assert members != read_members(source)
    source.rename(source.with_name("gone"))
    restored = read_tree(restore(variant, source.parent / "restored"))
    assert restored.keys() == expected.keys()
    for name, content in expected.items():
        assert restored[name] == content, f"{name} is not what it was"
    return members


def problem_of(kind: type[CorruptkitError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# Odd content


def pack_samples(folder: Path, samples: Sequence[dict[str, bytes]]) -> Path:
    """A source of one shard: each sample's members by suffix."""
    folder.mkdir()
    content = b"".join(pack_member(f"{i:03d}.{suffix}", data) for i, sample in enumerate(samples) for suffix, data in sample.items())
    (folder / "odd.tar").write_bytes(content + bytes(1024))
    return folder


LABELS = [
    b"3\n",
    b"\r\n3",
    b"\xef\xbb\xbf1",
    b"007\n",
    b"  2  ",
    b"5",
    b"\t4\v\f\r",
    b"0000000",
    b"\xef\xbb\xbf \n06\r\n",
    b"000000000000000006",
]


def test_labels_in_any_spelling(tmp_path: Path) -> None:
    """Digits are replaced; marks, blanks and line ends stay in the variant too."""
    source = pack_samples(tmp_path / "source", [{"png": b"i", "cls": label} for label in LABELS])
    members = assert_restored(source, ALL[0])
    for before, (_, name, after) in zip(LABELS, [member for member in members if member[1].endswith(".cls")], strict=True):
        assert after.strip(b"\xef\xbb\xbf \t\n\v\f\r") != before.strip(b"\xef\xbb\xbf \t\n\v\f\r"), name
        around = [content.translate(None, b"0123456789") for content in (before, after)]
        assert around[0] == around[1], name


CAPTIONS = [
    "a\r\nb\r\n",
    "\ufeffa mark",
    "no line end",
    "a line end\n",
    "",
    "long " * 200_000,
    "\u2028\u2029\x85 odd breaks",
    " blanks  ",
    "\n",
    "nul \0 inside",
    "\U0001f600 é e\u0301",
    '{"caption": "looks like JSON"}',
]


def test_captions_of_any_text(tmp_path: Path) -> None:
    source = pack_samples(tmp_path / "source", [{"png": b"i", "txt": caption.encode()} for caption in CAPTIONS])
    members = assert_restored(source, ALL[1])
    texts = [content.decode() for _, name, content in members if name.endswith(".txt")]
    assert sorted(texts) == sorted(CAPTIONS)
    assert all(before != after for before, after in zip(CAPTIONS, texts, strict=True))


# Each holds one caption, TEXT, and one label, LABEL, among what must not be touched.
OBJECTS = {
    "plain": '{"caption": "TEXT", "label": LABEL}',
    "tight": '{"caption":"TEXT","label":LABEL}',
    "white space": ' \r\n\t{ "caption"\t:\r\n"TEXT" ,\n"label" : LABEL\n}\n\n ',
    "indented": json.dumps({"caption": "TEXT", "label": 77, "z": [1, {"a": None}]}, indent=4).replace("77", "LABEL"),
    "a mark": '\ufeff{"caption": "TEXT", "label": LABEL}',
    "escapes": '{"c\\u0061ption": "TEXT\\/\\u00e9\\ud83d\\ude00", "l\\u0061bel": LABEL, "u": "\\/\\u00E9"}',
    "raw unicode": '{"caption": "TEXT é 😀", "label": LABEL, "é": "日本"}',
    "a name twice": '{"caption": "first TEXT", "label": 1LABEL, "caption": "TEXT", "label": LABEL, "caption": "TEXT"}',
    "a name twice, once no text": '{"caption": null, "caption": "TEXT", "label": [1], "label": LABEL}',
    "label as text": '{"caption": "TEXT", "label": "LABEL"}',
    "label with zeros": '{"caption": "TEXT", "label": "00LABEL"}',
    "nested": '{"a": {"caption": "kept", "label": 3}, "caption": "TEXT", "label": LABEL, "b": [{"caption": "kept", "label": "4"}]}',
    "in a text": '{"t": "\\"caption\\": \\"kept\\", \\"label\\": 5", "caption": "TEXT", "label": LABEL}',
    "odd numbers": '{"x": 1.50, "y": 1E5, "z": -0, "n": 1e400, "caption": "TEXT", "label": LABEL, "big": 123456789012345678901234567890}',
    "nothing else last": '{"label": LABEL, "width": 64, "caption": "TEXT"}',
}


@pytest.mark.parametrize("beside", [False, True], ids=["json alone", "txt and cls beside"])
@pytest.mark.parametrize("name", OBJECTS)
def test_json_in_any_spelling(name: str, beside: bool, tmp_path: Path) -> None:
    """Caption and label become the row's in every place at the top, with their type; all else stands as it stood."""
    template = OBJECTS[name]
    objects = [template.replace("TEXT", f"the {text}").replace("LABEL", str(i)) for i, text in enumerate(TEXTS)]
    extra = [{"txt": f"words of {text}\n".encode(), "cls": f"{i}\n".encode()} if beside else {} for i, text in enumerate(TEXTS)]
    samples = [{"png": b"i", "json": text.encode(), **more} for text, more in zip(objects, extra, strict=True)]
    members = assert_restored(pack_samples(tmp_path / "source", samples))
    rows = list(open_dataset(tmp_path / "variant").rows())
    for row, after in zip(rows, [content for _, name, content in members if name.endswith(".json")], strict=True):
        caption = json.dumps(row["caption"], ensure_ascii=template.lstrip("\ufeff").isascii())
        expected = re.sub(r'"[^"]*TEXT[^"]*"', lambda _, caption=caption: caption, template)
        assert after.decode() == re.sub("[0-9]*LABEL", str(row["label"]), expected)


def test_caption_of_a_json_that_differs_from_the_txt(tmp_path: Path) -> None:
    """Replaced in the variant; back in the source, where each had its own."""
    samples = [{"txt": f"words {i}".encode(), "json": b'{"caption": "other words %d"}' % i} for i in range(6)]
    members = assert_restored(pack_samples(tmp_path / "source", samples), ALL[1])
    texts = {name: content for _, name, content in members}
    assert all(json.loads(texts[f"{i:03d}.json"]) == {"caption": texts[f"{i:03d}.txt"].decode()} for i in range(6))


def test_caption_of_a_json_that_is_the_new_one_by_chance(tmp_path: Path) -> None:
    """What stands there already is written again, and its original is kept like any other."""
    captions = [f"words {i}" for i in range(6)]
    first = pack_samples(tmp_path / "first", [{"txt": text.encode(), "json": b"{}"} for text in captions])
    dataset = open_dataset(first)
    new = {edit["key"]: edit["new"] for edit in plan_of(dataset, ALL[1]).edits.to_pylist()}
    samples = [
        {"txt": text.encode(), "json": json.dumps({"caption": new[f"{i:03d}"] if i < 3 else text}).encode()}
        for i, text in enumerate(captions)
    ]
    members = assert_restored(pack_samples(tmp_path / "source", samples), ALL[1])
    texts = {name: content for _, name, content in members}
    assert [texts[f"{i:03d}.json"] for i in range(3)] == [sample["json"] for sample in samples[:3]]
    assert all(json.loads(texts[f"{i:03d}.json"])["caption"] == new[f"{i:03d}"] for i in range(6))


def test_samples_with_and_without_conditions(tmp_path: Path) -> None:
    samples = [
        {"png": b"i", **({"txt": f"words {i}".encode()} if i % 2 else {}), **({"cls": b"%d" % i} if i % 3 else {})} for i in range(9)
    ]
    samples[4]["json"] = b'{"caption": 5, "label": 1.5}'
    assert_restored(pack_samples(tmp_path / "source", samples))


# Odd tars


def pack_member(name: str, content: bytes, *, before: bytes = b"", pad: bytes = b"\0", **fields: bytes) -> bytes:
    """A member with its padding, after `before` (extension headers); fields of its header are given as they shall stand."""
    return before + make_header(name, len(content), **fields) + content + pad * (-len(content) % 512)


PLACES = {"mode": 100, "uid": 108, "size": 124, "mtime": 136, "type": 156, "magic": 257, "uname": 265, "prefix": 345, "rest": 500}


def make_header(name: str, length: int, /, **fields: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.size, info.mtime = length, 1_700_000_000
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    raw = name.encode()[:100]
    block[: len(raw)] = raw
    for field, value in fields.items():
        block[PLACES[field] : PLACES[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax_header(flag: bytes, **records: str) -> bytes:
    info = tarfile.TarInfo("x")
    content = info._create_pax_generic_header(records, flag, "utf-8")
    return bytes(content)


def gnu_name(name: str, flag: bytes = b"L") -> bytes:
    raw = name.encode() + b"\0"
    return make_header("././@LongLink", len(raw), type=flag, magic=b"ustar  \0") + raw + bytes(-len(raw) % 512)


def odd_shard(member: Callable[[str, bytes], bytes], *, between: Callable[[int], bytes] = lambda _: b"", end: bytes = bytes(1024)) -> bytes:
    """Six samples of four members, packed by `member`, with what `between` puts before each."""
    parts = []
    for i, text in enumerate(TEXTS):
        key, words = f"{i:03d}", f"a caption of {text * (i + 1)}"
        fields = {"caption": words, "label": i * 11}
        parts += [between(i), member(f"{key}.png", b"image" * 60 * i), member(f"{key}.txt", words.encode())]
        parts += [member(f"{key}.cls", str(i * 11).encode()), member(f"{key}.json", json.dumps(fields).encode())]
    return b"".join(parts) + end


def in_folder(name: str) -> str:
    return "a-folder-with-a-long-name/" * 6 + name


def spell_size(form: str) -> Callable[[str, bytes], bytes]:
    def member(name: str, content: bytes) -> bytes:
        sizes = {
            "octal": b"%011o\0" % len(content),
            "blank": b"%011o " % len(content),
            "twelve digits": b"%012o" % len(content),
            "leading blanks": b"%10o \0" % len(content),
            "short": (b"%o\0" % len(content)).ljust(12, b"\0"),
            "base-256": b"\x80" + len(content).to_bytes(11, "big"),
        }
        return pack_member(name, content, size=sizes[form])

    return member


def pax_sized(name: str, content: bytes) -> bytes:
    """The size in a pax record alone; the header itself says 0."""
    record = pax_header(b"x", size=str(len(content)), mtime="1700000000.123456789")
    return pack_member(name, content, before=record, size=b"%011o\0" % 0)


def between_folder(i: int) -> bytes:
    return make_header(f"folder-{i}/", 0, type=b"5", size=b"%011o\0" % (4096 if i % 2 else 0))


def between_strangers(i: int) -> bytes:
    """Members of no sample: without a suffix, and webdataset's own."""
    return pack_member(f"README-{i}", b"read me\n") + pack_member(f"__meta__{i}__", b"{}") + pack_member("__index__.json__", b"\xff")


TARS: dict[str, bytes] = {
    "plain": odd_shard(pack_member),
    "padding of junk": odd_shard(lambda name, content: pack_member(name, content, pad=b"\xaa")),
    "zeros after the end": odd_shard(pack_member, end=bytes(1024 + 10240)),
    "a mebibyte of zeros": odd_shard(pack_member, end=bytes(1 << 20)),
    "junk after the end": odd_shard(pack_member, end=bytes(1024) + b"junk" * 99),
    "a tar after the end": odd_shard(pack_member, end=bytes(1024) + pack_member("other.txt", b"other")),
    "one block at the end": odd_shard(pack_member, end=bytes(512)),
    **{f"size, {form}": odd_shard(spell_size(form)) for form in ("blank", "twelve digits", "leading blanks", "short", "base-256")},
    "pax mtime": odd_shard(lambda name, content: pack_member(name, content, before=pax_header(b"x", mtime="1700000000.5", comment="é"))),
    "pax size": odd_shard(pax_sized),
    "pax long names": odd_shard(lambda name, content: pack_member("cut", content, before=pax_header(b"x", path=in_folder(name)))),
    "pax global": odd_shard(pack_member, between=lambda i: pax_header(b"g", comment=f"sample {i}") if i % 2 == 0 else b""),
    "gnu long names": odd_shard(lambda name, content: pack_member("cut", content, before=gnu_name(in_folder(name)), magic=b"ustar  \0")),
    "gnu long links": odd_shard(lambda name, content: pack_member(name, content, before=gnu_name("of no use", b"K"), magic=b"ustar  \0")),
    "ustar prefix": odd_shard(lambda name, content: pack_member(name, content, prefix=b"some/folder")),
    "old tar": odd_shard(lambda name, content: pack_member(name, content, type=b"\0", magic=bytes(8))),
    "contiguous": odd_shard(lambda name, content: pack_member(name, content, type=b"7")),
    "owners": odd_shard(lambda name, content: pack_member(name, content, mode=b"100600 \0", uid=b"\x80" + bytes(6) + b"\xff", uname=b"me")),
    "bytes nobody reads": odd_shard(lambda name, content: pack_member(name, content, rest=b"left over")),
    "folders": odd_shard(pack_member, between=between_folder),
    "members of no sample": odd_shard(pack_member, between=between_strangers),
    "capital suffixes": odd_shard(lambda name, content: pack_member(name.upper(), content)),
    "leading dots": odd_shard(lambda name, content: pack_member(f"./{name}", content)),
    "unicode names": odd_shard(lambda name, content: pack_member(f"日本/é{name}", content)),
}


@pytest.mark.parametrize("name", TARS)
def test_tars_as_the_world_packs_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "odd.tar").write_bytes(TARS[name])
    expected = [(name, len(content)) for _, name, content in read_files(tmp_path / "source")]
    make(tmp_path / "source", tmp_path / "same", {"kind": "flip", "ratio": "0"})
    assert (tmp_path / "same" / "odd.tar").read_bytes() == TARS[name]
    assert_restored_tar(tmp_path / "source", expected)


def read_files(folder: Path) -> list[tuple[str, str, bytes]]:
    """Every (shard, member, content) of regular files, as the standard library reads them."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [(path.name, info.name, file.read()) for info in tar if (file := tar.extractfile(info)) is not None]
    return found


def assert_restored_tar(source: Path, expected: list[tuple[str, int]]) -> None:
    """As `assert_restored`, and the standard library reads from the variant the same members with what the plan says."""
    variant = make(source, source.parent / "variant")
    assert verify(variant, source=source, deep=True).problems == ()
    rows = {row["key"].rpartition("/")[2].lstrip("é").lower(): row for row in open_dataset(variant).rows()}
    assert len(rows) == 6
    members = read_files(variant)
    assert [name for _, name, _ in members] == [name for name, _ in expected]
    for _, name, content in members:
        key, _, suffix = name.rpartition("/")[2].lstrip("é").lower().partition(".")
        if suffix == "txt":
            assert content.decode() == rows[key]["caption"] != f"a caption of {TEXTS[int(key)] * (int(key) + 1)}"
        elif suffix == "cls":
            assert int(content) == rows[key]["label"] != int(key) * 11
        elif suffix == "json":
            assert json.loads(content) == {"caption": rows[key]["caption"], "label": rows[key]["label"]}
    before = (source / "odd.tar").read_bytes()
    source.rename(source.with_name("gone"))
    assert read_tree(restore(variant, source.parent / "restored")) == {"odd.tar": before}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_the_standard_library(form: int, tmp_path: Path) -> None:
    rows = [row._replace(key=f"{'long/' * 17}{row.key}") for row in make_rows(40)]
    assert_restored(write_shards(tmp_path / "source", rows, shards=3, form=form))


def test_shard_without_an_edit_is_the_source_s(tmp_path: Path) -> None:
    source = write_shards(tmp_path / "source", make_rows(30), shards=3)
    keys = [f"{i:09d}" for i in range(10, 20)]
    variant = make(source, tmp_path / "variant", {"kind": "flip", "ratio": "1", "where": {"keys_file": keys}})
    same = [(variant / name).read_bytes() == (source / name).read_bytes() for name in sorted(p.name for p in source.glob("*.tar"))]
    assert same == [True, False, True]
    assert read_tree(restore(variant, tmp_path / "restored")) == read_tree(source)


# Side-cars, chains, overlays


def test_source_of_img2dataset_comes_back_whole(tmp_path: Path) -> None:
    """Side-cars and counts too; what corruptkit does not know is not carried, so it cannot come back."""
    source = published_source(tmp_path / "source")
    (source / "notes.txt").unlink()
    dataset = open_dataset(source)
    write_variant(dataset, make_plan(chain_recipe(tmp_path), dataset.index()), tmp_path / "variant")
    changed = {name for name, content in read_tree(tmp_path / "variant").items() if read_tree(source).get(name) != content}
    assert changed >= {"00000.tar", "00000.parquet", "00002.parquet"}
    expected = read_tree(source)
    shutil.rmtree(source)
    assert read_tree(restore(tmp_path / "variant", tmp_path / "restored")) == expected


def test_originals_are_a_tar_of_what_was_rewritten(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    variant = make(source, tmp_path / "variant", {"kind": "swap", "ratio": "0.2"})
    before, after = ({(shard, name): content for shard, name, content in read_members(folder)} for folder in (source, variant))
    expected = [(name, before[shard, name]) for shard, name in before if before[shard, name] != after[shard, name]]
    expected += [
        (path.name, path.read_bytes())
        for path in sorted(source.glob("*.parquet"))
        if path.read_bytes() != (variant / path.name).read_bytes()
    ]
    with tarfile.open(variant / HIDDEN / "originals.tar") as tar:
        found = [(info.name, file.read()) for info in tar if (file := tar.extractfile(info))]
    assert found == expected
    assert len(expected) > 8


def test_chain_of_variants_is_undone_link_by_link(tmp_path: Path) -> None:
    places = [published_source(tmp_path / "0")]
    for number in range(1, 4):
        places.append(make(places[-1], tmp_path / str(number), *ALL, seed=str(number)))
    for number in range(3, 0, -1):
        restored = read_tree(restore(places[number], tmp_path / f"back-{number - 1}"))
        expected = read_tree(places[number - 1])
        assert {name: content for name, content in expected.items() if not name.startswith(HIDDEN) and name != "notes.txt"} == restored


def test_edits_that_undo_each_other_leave_the_source_s_bytes(tmp_path: Path) -> None:
    """Two classes flipped twice are what they were: no member is rewritten, and there is nothing to put back."""
    source = write_shards(tmp_path / "source", make_rows(20, classes=2), shards=2)
    variant = make(source, tmp_path / "variant", ALL[0], ALL[0])
    assert (variant / "shard-00000.tar").read_bytes() == (source / "shard-00000.tar").read_bytes()
    assert (variant / HIDDEN / "originals.tar").read_bytes() == bytes(1024)
    assert read_tree(restore(variant, tmp_path / "restored")) == read_tree(source)


def test_overlay_gives_a_copy_of_its_source(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    (source / "notes.txt").unlink()
    overlay = make(source, tmp_path / "overlay", form="overlay")
    assert read_tree(restore(overlay, tmp_path / "restored")) == read_tree(source)
    source.rename(tmp_path / "moved")
    assert "state --source PATH" in problem_of(DatasetError, lambda: restore(overlay, tmp_path / "again"))
    assert read_tree(restore(overlay, tmp_path / "again", source=tmp_path / "moved")) == read_tree(tmp_path / "moved")
    other = published_source(tmp_path / "other", samples=11)
    assert str(other) in problem_of(IntegrityError, lambda: restore(overlay, tmp_path / "third", source=other))


def test_variant_of_an_overlay_gives_what_the_overlay_reads(tmp_path: Path) -> None:
    """Shards and side-cars with the overlay's edits, as if it had been materialised, from the variant alone."""
    source = published_source(tmp_path / "source")
    copied, overlay = make(source, tmp_path / "copied"), make(source, tmp_path / "overlay", form="overlay")
    variant = make(overlay, tmp_path / "variant", *ALL, seed="9")
    expected = {name: content for name, content in read_tree(copied).items() if not name.startswith(HIDDEN)}
    shutil.rmtree(source)
    shutil.rmtree(overlay)
    assert read_tree(restore(variant, tmp_path / "restored")) == expected


def test_overlay_of_an_overlay_gives_what_the_lower_one_reads(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    copied, lower = make(source, tmp_path / "copied"), make(source, tmp_path / "lower", form="overlay")
    upper = make(lower, tmp_path / "upper", *ALL, seed="9", form="overlay")
    expected = {name: content for name, content in read_tree(copied).items() if not name.startswith(HIDDEN)}
    assert read_tree(restore(upper, tmp_path / "restored")) == expected


def test_restored_source_makes_the_same_variant(tmp_path: Path) -> None:
    source = published_source(tmp_path / "source")
    variant = make(source, tmp_path / "variant")
    again = make(restore(variant, tmp_path / "restored"), tmp_path / "again")
    assert {name: content for name, content in read_tree(again).items() if "manifest" not in name} == {
        name: content for name, content in read_tree(variant).items() if "manifest" not in name
    }


# What is refused


@pytest.fixture
def variant(tmp_path: Path) -> Path:
    return make(published_source(tmp_path / "source"), tmp_path / "variant")


@pytest.mark.parametrize(
    "name", ["00001.tar", "00001.parquet", f"{HIDDEN}/originals.tar", f"{HIDDEN}/plan.parquet", f"{HIDDEN}/manifest.json"]
)
def test_damaged_variant_is_refused_before_anything_is_written(name: str, variant: Path, tmp_path: Path) -> None:
    flip_bit(variant / name, 8 * 600 + 3)
    assert str(variant / name) in problem_of(IntegrityError, lambda: restore(variant, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_source_is_no_variant_to_restore(variant: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restore", str(tmp_path / "source"), "--out", str(tmp_path / "out")]) == 2
    assert "there is no manifest" in capsys.readouterr().err
    assert main(["restore", str(variant), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: the source of {variant}, byte for byte\n"


def test_folder_that_is_not_empty_is_refused(variant: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    said = problem_of(ConflictError, lambda: restore(variant, tmp_path / "out"))
    assert said == f"{tmp_path / 'out'}: the folder is not empty, expected an empty folder or none; choose another --out"
    (tmp_path / "out" / "mine").unlink()
    restore(variant, tmp_path / "out")
    assert "not empty" in problem_of(ConflictError, lambda: restore(variant, tmp_path / "out"))


@pytest.mark.parametrize("place", ["variant", "variant/inside", "."])
def test_target_and_variant_may_not_hold_each_other(place: str, variant: Path, tmp_path: Path) -> None:
    problem_of(ConflictError, lambda: restore(variant, tmp_path / place))
    assert verify(variant).problems == ()


def test_file_in_the_way_is_refused(variant: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for place in ("file", "file/deeper"):
        assert problem_of(ConflictError, lambda place=place: restore(variant, tmp_path / place)).startswith(str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"mine"


def drop_original(folder: Path, _: Json) -> None:
    with tarfile.open(folder / HIDDEN / "originals.tar") as tar:
        second = tar.getmembers()[1].offset
    content = (folder / HIDDEN / "originals.tar").read_bytes()
    (folder / HIDDEN / "originals.tar").write_bytes(content[second:])


def empty_originals(folder: Path, _: Json) -> None:
    (folder / HIDDEN / "originals.tar").write_bytes(bytes(1024))


def break_originals(folder: Path, _: Json) -> None:
    (folder / HIDDEN / "originals.tar").write_bytes(b"no tar" * 999)


@pytest.mark.parametrize(
    ("forge", "said"), [(drop_original, "the original of"), (empty_originals, "no original"), (break_originals, "no tar header")]
)
def test_originals_that_do_not_fit_are_refused(forge: Callable[[Path, Json], None], said: str, variant: Path, tmp_path: Path) -> None:
    forged = forge_variant(variant, tmp_path / "forged", forge)
    with pytest.raises(CorruptkitError, match=said):
        restore(forged, tmp_path / "out")
    assert not list((tmp_path / "out").glob("00000.tar"))


def test_original_that_was_changed_is_found_where_the_source_s_digest_is_known(variant: Path, tmp_path: Path) -> None:
    """The source of a variant of a variant has digests in its manifest, and the restored shard must have them."""
    second = make(variant, tmp_path / "second", *ALL, seed="5")

    def change(folder: Path, _: Json) -> None:
        path = folder / HIDDEN / "originals.tar"
        path.write_bytes(path.read_bytes().replace(b'the "only"', b'the "ONLY"', 1))

    forged = forge_variant(second, tmp_path / "forged", change)
    assert "restored, SHA-256" in problem_of(IntegrityError, lambda: restore(forged, tmp_path / "out"))


class Cut(BaseException):
    """The end of a process, inside one."""


def test_restoring_that_was_cut_begins_anew(variant: Path, tmp_path: Path) -> None:
    """At any call that changes the disk."""
    expected = read_tree(restore(variant, tmp_path / "whole"))
    for limit in range(1, 200):
        out, done = tmp_path / f"cut-{limit}", False
        with pytest.MonkeyPatch.context() as patch:
            cut_calls(patch, limit)
            try:
                restore(variant, out)
                done = True
            except Cut:
                pass
        if done:
            assert limit > 40
            return
        restored = out if out.exists() and read_tree(out) == expected and not (out / HIDDEN).exists() else restore(variant, out)
        assert read_tree(restored) == expected, f"cut at call {limit}"
        assert not (out / HIDDEN).exists()
        shutil.rmtree(out)
    raise AssertionError("it never comes to its end")


def cut_calls(patch: pytest.MonkeyPatch, limit: int) -> None:
    count = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count >= limit:
                raise Cut
            return call(*args, **named)

        return counted

    for name in ("fsync", "replace", "mkdir", "rmdir", "unlink", "writev"):
        patch.setattr(os, name, wrap(getattr(os, name)))


def test_disk_that_is_full_is_told_in_one_line(variant: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        if disk is None or disk.prefix:
            pytest.skip("mount is not allowed here")
        said = problem_of(DatasetError, lambda: restore(variant, disk.path / "out"))
        assert said.startswith(f"{disk.path / 'out'}: no space left on the device; free some space")
        disk.resize("1m")
        assert read_tree(restore(variant, disk.path / "out")) == read_tree(restore(variant, tmp_path / "out"))
