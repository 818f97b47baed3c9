"""Splits from end to end: each split of a saved DatasetDict is a source for every command, and no name of a split leaves the target."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from corruptkit.cli import main
from corruptkit.errors import DatasetError, IntegrityError
from corruptkit.formats.shards import find_shards
from corruptkit.formats.splits import check_split, is_split
from corruptkit.manifest import parse_manifest, read_manifest
from corruptkit.opening import open_dataset
from tests.broken.inputs import images, pack, pack_good, reseal, table
from tests.corruptkit.shards import make_rows, write_shards, write_tar

FORMATS = ("webdataset", "parquet", "arrow", "overlay")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(folder: Path, split: str | None, mark: str = "a") -> Path:
    """A folder as `Dataset.save_to_disk` leaves it; the captions begin with the mark."""
    keys = [f"{number:02d}" for number in range(12)]
    table(folder / "data-00000-of-00001.arrow", key=keys, caption=[f"{mark} caption {key}" for key in keys])
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def save_splits(folder: Path, **states: str | None) -> Path:
    """A folder as `DatasetDict.save_to_disk` leaves it: splits by name, with what each state.json says that it is."""
    for name, state in states.items():
        save(folder / name, state, name)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(states)}))
    return folder


def run(*words: str) -> None:
    assert main(list(words)) == 0, words


# Saved by datasets


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("val", "validation"), ("en", "en"), ("train", "train")])
def test_every_split_of_a_saved_dict_does_for_every_command(place: Path, form: str, name: str, split: str) -> None:
    """What `train_test_split` gives states `train` in both folders: the folders' names are the splits."""
    save_splits(place / "src", train="train", test="train", en=None, val="val")
    run("index", "src", "--split", name)
    run("make", "--source", "src", "--split", name, "--swap", "0.5", "--format", form, "--out", "v")
    assert read_manifest(place / "v").identity["source"]["split"] == split
    assert {row["caption"].split()[0] for row in open_dataset("v").rows()} == {name}
    run("verify", "v")
    run("verify", "v", "--source", "src", *([] if form == "overlay" else ["--deep"]))
    run("index", "v", "--split", name)
    run("restore", "v", "--out", "again")
    assert open_dataset("again", key="column:key" if form in ("parquet", "arrow", "overlay") else None).index().column("caption") == (
        open_dataset("src", split=name).index().column("caption")
    )
    if form == "overlay":
        run("verify", "v", "--source", "again")
        for other in FORMATS[:3]:
            run("make", "--from", "v", "--format", other, "--out", f"from-{other}")
            run("verify", f"from-{other}", "--source", "src", "--deep")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("state", "split"),
    [("test", "test"), ("train[:4]", "train"), ("test[50%:]+train", "test"), ("val", "validation"), ("a.b", "a.b"), (None, "train")],
)
def test_saved_data_set_is_of_the_split_that_it_states(place: Path, form: str, state: str | None, split: str) -> None:
    save(place / "one", state)
    run("make", "--source", "one", "--swap", "0.5", "--format", form, "--out", "v")
    assert read_manifest(place / "v").identity["source"]["split"] == split
    run("verify", "v", "--source", "one", *([] if form == "overlay" else ["--deep"]))
    run("diff", "v", "v")
    run("restore", "v", "--out", "again")
    assert open_dataset("one", split=split).split == find_shards(place / "one" / "data-00000-of-00001.arrow", None).split == split


def test_splits_of_datasets_itself() -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict(
        {"key": [str(n) for n in range(12)], "caption": [f"a caption {n}" for n in range(12)]}, split="train"
    )
    whole.train_test_split(test_size=4, seed=0).save_to_disk("src")
    assert [len(open_dataset("src", split=split)) for split in ("train", "test")] == [8, 4]
    run("make", "--source", "src", "--split", "test", "--swap", "1", "--of", "eligible", "--out", "v")
    assert str(datasets.load_from_disk("v").split) == "test"


def test_hyphen_becomes_what_datasets_can_name(place: Path) -> None:
    datasets = pytest.importorskip("datasets")
    save_splits(place / "src", **{"x-y": None})
    run("make", "--source", "src", "--swap", "0.5", "--out", "v")
    assert open_dataset("v").split == "x-y"
    assert str(datasets.load_from_disk("v").split) == str(open_dataset("v").to_datasets().split) == "x_y"


def test_split_that_a_saved_dict_lacks_is_refused(place: Path) -> None:
    save_splits(place / "src", en=None, fr=None)
    for split in (None, "de"):
        with pytest.raises(DatasetError, match=f"no split '{split or 'train'}', expected one of: en, fr; state another --split"):
            find_shards(place / "src", split)
    assert find_shards(place / "src", "fr").shards == (place / "src" / "fr" / "data-00000-of-00001.arrow",)


def test_only_split_of_a_saved_dict_needs_no_flag(place: Path) -> None:
    save_splits(place / "src", fr=None)
    assert find_shards(place / "src", None).split == "fr"


def test_two_folders_of_one_split_are_a_question(place: Path) -> None:
    save_splits(place / "src", train=None, val=None, valid=None)
    images(place / "images", "val/a/1.jpg", "dev/a/1.jpg", "train/a/1.jpg")
    for folder, expected in (("src", "val, valid"), ("images", "dev, val")):
        with pytest.raises(DatasetError, match=f"folders of one split: {expected}, expected one folder of the split validation"):
            find_shards(place / folder, "val")
        assert find_shards(place / folder, None).split == "train"
    assert find_shards(place / "src" / "valid", None).split == "train"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"splits": []}', '{"splits": "train"}', '{"splits": [1]}', "[" * 100_000])
def test_saved_dict_that_lists_no_splits_is_refused(place: Path, content: str) -> None:
    save_splits(place / "src", train=None)
    (place / "src" / "dataset_dict.json").write_text(content)
    with pytest.raises(DatasetError, match=r"src/dataset_dict\.json: it does not list the splits of this folder"):
        find_shards(place / "src", None)


# Names


@pytest.mark.parametrize("name", ["train", "Test_2", "a.b", "train-clean-100", "验证", "é", "x" * 100])
def test_name_of_a_split(name: str) -> None:
    assert is_split(name)
    assert check_split(name, "") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/a",
        "a\\b",
        "a\n",
        "\n",
        "a\0",
        "\ud800",
        "-a",
        ".a",
        "a.",
        "a..b",
        "a b",
        "x" * 101,
        "é" * 51,
        "a[:4]",
    ],
)
def test_what_no_split_is_called(place: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    pack_good(place / "src" / "a.tar")
    assert not is_split(name)
    assert main(["make", "--source", "src", "--swap", "1", f"--split={name}"]) == 2
    assert capsys.readouterr().err.startswith("error: --split: the split '")
    assert [path.name for path in place.iterdir()] == ["src"]


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
@pytest.mark.parametrize("name", ["../../evil", "a\0", "\ud800", "x" * 300, "a\nb"])
@pytest.mark.parametrize("where", ["_info.json", "state.json", "dataset_dict.json"])
def test_name_in_a_file_of_the_source_leaves_no_target(place: Path, where: str, name: str, form: str) -> None:
    if where == "_info.json":
        pack_good(place / "src" / "a.tar")
        (place / "src" / where).write_text(json.dumps({"splits": {name: {"filenames": ["a.tar"]}}}))
    else:
        save_splits(place / "src", train=name if where == "state.json" else None)
    if where == "dataset_dict.json":
        (place / "src" / where).write_text(json.dumps({"splits": [name]}))
    before = sorted(place.rglob("*"))
    assert main(["make", "--source", "src", "--swap", "1", "--format", form, "--out", "deep/out"]) == 2
    assert sorted(place.rglob("*")) == before


def test_name_in_a_manifest_is_checked(place: Path) -> None:
    """A variant is a source as well, and its manifest names the split."""
    write_shards(place / "src", make_rows(12))
    run("make", "--source", "src", "--swap", "0.5", "--out", "v")
    reseal(place / "v", lambda manifest: manifest["identity"]["source"].update(split="../../evil"))
    content = (place / "v" / ".corruptkit" / "manifest.json").read_bytes()
    with pytest.raises(IntegrityError, match=r"identity\.source\.split: the split '\.\./\.\./evil', expected letters"):
        parse_manifest(content, "manifest.json")


@pytest.mark.parametrize("kind", ["tars", "parquet", "variant"])
def test_empty_split_is_one_clear_line(place: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    pack_good(place / "tars" / "a.tar")
    table(place / "parquet" / "a.parquet", key=["a", "b"], caption=pa.array(["one", "two"]))
    run("make", "--source", "tars", "--swap", "0.5", "--out", "variant")
    capsys.readouterr()
    assert main(["make", "--source", kind, "--swap", "0.5", "--split", "", "--out", "o"]) == 2
    assert capsys.readouterr().err.startswith("error: --split: the split '', expected letters")
    assert not (place / "o").exists()


# Folders of images, and what members are named by


def test_folder_that_is_a_link_to_another_place_is_read(place: Path) -> None:
    images(place / "src", "a/1.jpg")
    images(place / "other", "2.jpg", "deep/3.jpg")
    (place / "src" / "b").symlink_to(place / "other")
    assert [(row["key"], row["label"]) for row in open_dataset("src").rows()] == [("a/1", 0), ("b/2", 1), ("b/deep/3", 1)]


@pytest.mark.parametrize(("link", "target"), [("a/loop", "src"), ("a/loop", "src/a"), ("loop", "src"), ("a/loop", "."), ("b/to", "src/a")])
def test_link_to_a_folder_around_it_is_refused(place: Path, link: str, target: str) -> None:
    images(place / "src", "a/1.jpg", "b/2.jpg")
    (place / "src" / link).symlink_to((place / target).resolve())
    if link == "b/to":  # no loop by itself: a class that holds another's images; with a way back it is one
        assert len(open_dataset("src")) == 3
        (place / "src" / "a" / "back").symlink_to(place / "src" / "b")
    with pytest.raises(DatasetError, match="which it lies in, expected folders without a loop; remove the link"):
        open_dataset("src")


def test_flag_in_capitals_finds_members_and_fields(place: Path) -> None:
    """Suffixes are read in lower case; names of fields and columns are read as they stand."""
    write_members(place / "tars", {"0.jpg": b"x", "0.CAP": b"one", "1.jpg": b"y", "1.CAP": b"two"})
    write_members(place / "json", {"0.jpg": b"x", "0.json": b'{"Cap": "one"}', "1.jpg": b"y", "1.json": b'{"Cap": "two"}'})
    table(place / "table" / "a.parquet", key=["0", "1"], Cap=["one", "two"])
    for name, flag in (("tars", "CAP"), ("tars", "cap"), ("json", "Cap"), ("table", "Cap")):
        for form in ("webdataset", "arrow"):
            run("make", "--source", name, "--caption-column", flag, "--swap", "1", "--format", form, "--out", f"{name}-{flag}-{form}")
            run("verify", f"{name}-{flag}-{form}", "--source", name)
            assert [row["caption"] for row in open_dataset(f"{name}-{flag}-{form}").rows()] == ["two", "one"]
    with pytest.raises(DatasetError, match="no caption"):
        open_dataset("json", caption_column="cap").index()


def write_members(folder: Path, members: dict[str, bytes]) -> None:
    folder.mkdir()
    write_tar(folder / "a.tar", members.items())


def test_row_that_no_column_can_hold_is_excluded(place: Path) -> None:
    images(place / "src", *(f"{number}.jpg" for number in range(6)))
    lines = [json.dumps({"file_name": f"{number}.jpg", "text": f"caption {number}", "id": number}) for number in range(3)]
    odd = ({"id": 2**70}, {"id": 3, "x": "\ud800"}, {"id": 4, "\udfff": 1})
    lines += [json.dumps({"file_name": f"{number + 3}.jpg", "text": "odd"} | columns) for number, columns in enumerate(odd)]
    pack(place / "src" / "metadata.jsonl", "\n".join(lines).encode(), end=b"")
    for form in FORMATS:
        run("make", "--source", "src", "--bad", "exclude", "--swap", "0.5", "--format", form, "--out", form)
        assert (read_manifest(place / form).counts.rows, read_manifest(place / form).counts.excluded) == (3, 3)
        run("verify", form, "--source", "src")
