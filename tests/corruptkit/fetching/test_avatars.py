"""Avatars as they are really composed: free styles alone, captions by the written rule, bytes that never vary."""

from __future__ import annotations

import io
import platform
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from corruptkit.catalog import load_catalog
from corruptkit.errors import CatalogError, DatasetError
from corruptkit.fetching import avatars, fetch
from corruptkit.fetching.avatars import name_colour, write_caption
from tests.corruptkit.fetched import Row, conditions_digest, read_record, read_rows, read_tree, shards_digest

FEW = ("critters", "open-peeps", "planets", "voxel-bot")
CAPTIONS, CONDITIONS, SHARDS = 7946, "777b9b4034d4cbf8", "42a49855a18a471b"
pytestmark = pytest.mark.xdist_group("avatars")


def take_few(patch: pytest.MonkeyPatch) -> None:
    """Twelve seeds of four styles: to check a style's parts takes a second of its own."""
    patch.setattr(avatars, "STYLES", {name: avatars.STYLES[name] for name in FEW})
    patch.setattr(avatars, "SEEDS", 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `take_few` leaves."""
    with pytest.MonkeyPatch.context() as patch:
        take_few(patch)
        return fetch("avatars", tmp_path_factory.mktemp("avatars") / "out")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return read_rows(folder)


def test_each_style_has_its_seeds(folder: Path, rows: list[Row]) -> None:
    assert [row.key for row in rows] == [f"{style}/{seed:04d}" for style in FEW for seed in range(12)]
    assert Counter(avatars.CLASS_NAMES[row.label] for row in rows) == dict.fromkeys(FEW, 12)
    assert read_record(folder)["versions"] == avatars.PINNED
    assert read_record(folder)["warnings"] == []
    assert all(row.suffixes == ["png", "txt", "cls", "json"] for row in rows)
    assert len({row.members["png"] for row in rows}) > 45


def test_images_are_drawn_on_white(rows: list[Row]) -> None:
    for row in rows[::3]:
        image = Image.open(io.BytesIO(row.members["png"]))
        assert (image.format, image.size) == ("PNG", (64, 64))
        assert image.convert("RGBA").getextrema()[3] == (255, 255)
        assert len(image.convert("RGB").getcolors(4096)) > 1


def test_captions_begin_with_the_style_and_are_words(rows: list[Row]) -> None:
    for row in rows:
        style = row.key.partition("/")[0]
        assert row.caption.startswith(avatars.STYLES[style])
        assert row.caption == " ".join(row.caption.split()) == row.caption.lower()
        assert not any(word in row.caption for word in ("variant", "animation", "star0", "default"))
        assert row.record["caption"] == row.caption


def test_every_style_is_free(folder: Path) -> None:
    styles = [avatars.load_style(name) for name in avatars.STYLES]
    assert {style["meta"]["license"]["name"] for style in styles} == {"CC0 1.0"}
    text = (folder / "LICENSE.txt").read_text("utf-8")
    assert all(avatars.load_style(name)["meta"]["creator"]["name"] in text for name in FEW)


def test_style_of_another_licence_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"the style adventurer is under CC BY 4\.0, expected CC0 1\.0"):
        avatars.load_style("adventurer")


def test_second_fetch_has_equal_bytes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_few(monkeypatch)
    assert read_tree(fetch("avatars", tmp_path / "again")) == read_tree(folder)


def test_interrupted_fetch_leaves_nothing_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_few(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(avatars, "write_caption", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch("avatars", tmp_path / "out")
    assert sorted(read_tree(tmp_path / "out")) == ["LICENSE.txt"]
    assert (tmp_path / "out" / ".corruptkit" / "fetching").is_dir()
    assert read_tree(fetch("avatars", tmp_path / "out")) == read_tree(folder)


OPTIONS = {
    "bodyVariant": "tower",
    "bodyColor": ["#0080ff"],
    "eyesVariant": "bigPupils",
    "hill2Variant": "gentle",
    "mouthVariant": "default",
    "animationVariant": "none",
    "star02Variant": "small",
    "backgroundColor": ["#ff8800"],
    "noseVariant": None,
}


def test_caption_follows_its_rule() -> None:
    said = "a critter with blue tower body, big pupils eyes and gentle hill 2, on an orange background"
    assert write_caption("critters", OPTIONS) == said
    assert write_caption("critters", dict(reversed(OPTIONS.items()))) == said
    assert write_caption("gaze", {"backgroundColor": []}) == "a gazing shape"
    assert (
        write_caption("gaze", {"eyesVariant": "big", "backgroundColor": ["#112233"]})
        == "a gazing shape with big eyes, on a blue background"
    )


@pytest.mark.parametrize(
    ("colour", "word"),
    [
        ("#000000", "black"),
        ("#ffffff", "white"),
        ("#888888", "grey"),
        ("#ff0000", "red"),
        ("#ff0010", "red"),
        ("#ff8800", "orange"),
        ("#ffee00", "yellow"),
        ("#00ff00", "green"),
        ("#0000ff", "blue"),
        ("#00ffff", "blue"),
        ("#8800ff", "purple"),
        ("#ff44cc", "pink"),
        ("#694d3d", "brown"),
        ("#ffffff8f", ""),
        ("red", ""),
    ],
)
def test_colour_has_a_word(colour: str, word: str) -> None:
    assert name_colour([colour]) == word
    assert name_colour([]) == name_colour(None) == ""


@pytest.mark.parametrize("module", ["dicebear", "dicebear_styles", "resvg_py"])
def test_missing_module_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DatasetError, match=rf"'{module}' is not installed .*pip install 'corruptkit\[avatars\]'"):
        fetch("avatars", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_of_downloads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="--from: avatars downloads nothing, expected one of: emoji, fashion-mnist, openclipart"):
        fetch("avatars", tmp_path / "out", given=tmp_path)


def test_catalog_entry_is_true() -> None:
    source = load_catalog().source("avatars")
    assert source.class_names == avatars.CLASS_NAMES == tuple(sorted(avatars.STYLES))
    assert source.splits == {"train": len(avatars.STYLES) * 500}
    assert (source.license, source.license_url, source.attribution) == (avatars.LICENSE, avatars.LICENSE_URL, avatars.ATTRIBUTION)
    assert "procedurally composed" in source.title
    assert not source.needs_consent


@pytest.mark.slow
def test_every_avatar_is_there(tmp_path: Path) -> None:
    out = fetch("avatars", tmp_path / "out")
    rows = read_rows(out)
    assert read_record(out)["rows"] == len(rows) == 10000
    assert len({row.caption for row in rows}) == CAPTIONS
    assert conditions_digest(rows) == CONDITIONS
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):  # the renderer's floats were pinned there
        assert shards_digest(out) == SHARDS
