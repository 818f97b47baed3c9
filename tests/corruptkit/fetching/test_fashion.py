"""Fashion-MNIST as it really lies in its package: every row in its split, and equal bytes from the loose files."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from corruptkit.catalog import load_catalog
from corruptkit.errors import DatasetError, IntegrityError
from corruptkit.fetching import fashion, fetch
from corruptkit.fetching.archives import read_members
from corruptkit.opening import open_dataset
from tests.corruptkit.fetched import conditions_digest, download_archives, read_record, read_rows, read_tree, shards_digest

CONDITIONS = {"train": "4698cb48b4097e2c", "test": "8dd782a3caa0ed47"}
SHARDS = "ae26c1800b41607f"
pytestmark = pytest.mark.xdist_group("fashion")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download_archives(tmp_path_factory, [fashion.PACKAGE])


@pytest.fixture(scope="module")
def loose(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files as their authors give them."""
    folder = tmp_path_factory.mktemp("loose")
    for name, content in read_members(archives / fashion.PACKAGE.file, r"usr/share/datasets/.+-ubyte\.gz"):
        (folder / Path(name).name).write_bytes(content)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows of each split."""
    monkeypatch.setattr(fashion, "SPLITS", {"train": ("train", 1200), "test": ("t10k", 300)})


def test_every_row_is_there(archives: Path, tmp_path: Path) -> None:
    out = fetch("fashion-mnist", tmp_path / "out", given=archives)
    assert read_record(out)["rows"] == 70000
    assert shards_digest(out) == SHARDS
    for split, (_, count) in fashion.SPLITS.items():
        rows = read_rows(out, f"fashion-mnist-{split}-*.tar")
        assert [row.key for row in rows] == [f"{split}-{number:05d}" for number in range(count)]
        assert Counter(row.label for row in rows) == dict.fromkeys(range(10), count // 10)
        assert conditions_digest(rows) == CONDITIONS[split]
        assert {tuple(row.suffixes) for row in rows} == {("png", "cls")}
        assert len(open_dataset(out, split=split, fields=("label",)).index()) == count


@pytest.mark.usefixtures("few")
def test_images_have_the_pixels_of_the_file(archives: Path, loose: Path, tmp_path: Path) -> None:
    rows = read_rows(fetch("fashion-mnist", tmp_path / "out", given=archives), "*-test-*.tar")
    pixels = gzip.decompress((loose / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    for number, row in enumerate(rows):
        image = Image.open(io.BytesIO(row.members["png"]))
        assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))
        assert image.tobytes() == pixels[number * 784 : (number + 1) * 784]


@pytest.mark.usefixtures("few")
def test_loose_files_give_equal_bytes(archives: Path, loose: Path, tmp_path: Path) -> None:
    whole = read_tree(fetch("fashion-mnist", tmp_path / "package", given=archives))
    assert read_tree(fetch("fashion-mnist", tmp_path / "loose", given=loose)) == whole
    for path in loose.iterdir():
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert read_tree(fetch("fashion-mnist", tmp_path / "bare", given=tmp_path)) == whole


@pytest.mark.parametrize("damage", [b"no gzip", gzip.compress(b"other content", mtime=0), gzip.compress(b"cut short", mtime=0)[:-9]])
def test_other_content_is_refused(loose: Path, tmp_path: Path, damage: bytes) -> None:
    for path in loose.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"t10k-labels-idx1-ubyte\.gz: content of SHA-256 .*, expected 0402a96d92fd2663"):
        fetch("fashion-mnist", tmp_path / "out", given=tmp_path)
    assert not (tmp_path / "out").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "t10k-labels-idx1-ubyte.gz").touch()
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte: no such file, expected all four files of Fashion-MNIST"):
        fetch("fashion-mnist", tmp_path / "out", given=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("few")
def test_complete_folder_needs_no_archive(archives: Path, tmp_path: Path) -> None:
    out = fetch("fashion-mnist", tmp_path / "out", given=archives)
    before = read_tree(out)
    assert read_tree(fetch("fashion-mnist", out, given=tmp_path / "nowhere")) == before


def test_catalog_entry_is_true() -> None:
    source = load_catalog().source("fashion-mnist")
    assert source.class_names == fashion.CLASS_NAMES
    assert source.splits == {split: count for split, (_, count) in fashion.SPLITS.items()}
    assert source.attribution == fashion.ATTRIBUTION
    assert source.fields == ("label",)
    assert not source.needs_consent
