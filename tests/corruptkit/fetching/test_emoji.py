"""Emoji as they are really rendered: what joins and what does not, whose each is, and that the bytes never vary."""

from __future__ import annotations

import io
import json
import platform
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from corruptkit.catalog import load_catalog
from corruptkit.errors import DatasetError
from corruptkit.fetching import emoji, fetch, openmoji
from corruptkit.fetching.archives import read_members
from corruptkit.fetching.emoji import ICONS, NAMES, STYLES, bare_code, find_emoji, hyphen_name
from tests.corruptkit.fetched import Row, conditions_digest, download_archives, read_record, read_rows, read_tree, shards_digest

COUNTS = {
    "emojione": 1471,
    "emojione-v1": 906,
    "fluent-emoji": 3120,
    "fluent-emoji-flat": 3139,
    "fxemoji": 230,
    "noto": 3682,
    "noto-v1": 2101,
    "openmoji": 3944,
    "twemoji": 3944,
}
LEFT_OUT = {"hidden": 395, "without_name": 2197, "without_category": 78}
CAPTIONS = 3949
CONDITIONS = "7c742dbf1f320d31"
SHARDS = "a9d835ce6b87dfc8"
pytestmark = pytest.mark.xdist_group("emoji")  # one worker downloads and unpacks


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download_archives(tmp_path_factory, (ICONS, NAMES))


@pytest.fixture(scope="module")
def folder(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One style of nine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "STYLES", {"fxemoji": STYLES["fxemoji"]})
        return fetch("emoji", tmp_path_factory.mktemp("emoji") / "out", given=archives)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return read_rows(folder)


def test_one_style_is_whole(folder: Path, rows: list[Row]) -> None:
    record = read_record(folder)
    assert record["rows"] == len(rows) == COUNTS["fxemoji"]
    assert record["left_out"] == {"hidden": 0, "without_name": 1034 - 230, "without_category": 0}
    assert record["versions"] == emoji.PINNED | {"@iconify/json": "2.2.535", "emojibase-data": "17.0.0"}
    assert not (folder / ".corruptkit" / "fetching").exists()
    assert all(row.suffixes == ["png", "txt", "cls", "json"] for row in rows)
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    rocket = next(row for row in rows if row.key == "fxemoji/1F680")
    assert (rocket.caption, emoji.CLASS_NAMES[rocket.label]) == ("rocket", "Travel & Places")


def test_images_are_drawn_on_white(rows: list[Row]) -> None:
    for row in rows[::7]:
        image = Image.open(io.BytesIO(row.members["png"]))
        assert (image.format, image.size) == ("PNG", (64, 64))
        assert image.convert("RGBA").getextrema()[3] == (255, 255)
        assert len(image.convert("RGB").getcolors(4096)) > 1


def test_each_row_says_its_licence(rows: list[Row], folder: Path) -> None:
    style = STYLES["fxemoji"]
    for row in rows:
        said = row.record
        assert (said["style"], said["license"], said["license_url"]) == ("fxemoji", style.license, style.license_url)
        assert said["attribution"] == style.attribution
    assert style.attribution in (folder / "LICENSE.txt").read_text("utf-8")


def test_licences_are_what_the_sets_state(archives: Path) -> None:
    """Of a new version, this says which licence has changed."""
    ((_, content),) = read_members(archives / ICONS.file, "package/collections[.]json")
    stated = {name: entry for name, entry in json.loads(content).items() if name in STYLES}
    found = {name: (s["author"]["name"], s["author"]["url"], s["license"]["spdx"], s["license"]["url"]) for name, s in stated.items()}
    assert found == {name: tuple(style) for name, style in STYLES.items()}


def test_second_fetch_has_equal_bytes(folder: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emoji, "STYLES", {"fxemoji": STYLES["fxemoji"]})
    assert read_tree(fetch("emoji", tmp_path / "again", given=archives)) == read_tree(folder)


def test_catalog_entry_is_true() -> None:
    source = load_catalog().source("emoji")
    assert source.class_names == emoji.CLASS_NAMES == openmoji.CLASS_NAMES
    assert source.splits == {"train": emoji.ROWS} == {"train": sum(COUNTS.values())}
    assert all(name in source.attribution for name in STYLES)
    assert not source.needs_consent


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("flag: St. Lucia", "flag-st-lucia"),
        ("Bed & Breakfast", "bed-and-breakfast"),
        ("man’s shoe", "mans-shoe"),
        ("keycap: 1", "keycap-1"),
    ],
)
def test_label_is_hyphened_as_the_sets_do(label: str, name: str) -> None:
    assert hyphen_name(label) == name


def test_emoji_is_found_by_code_before_name() -> None:
    one, two = (emoji.Emoji(code, code, 0) for code in ("1F600", "1F601"))
    unicode = emoji.Unicode({"1F600": one, "1F601": two}, {"grin-medium-dark-skin-tone": one, "grin": two})
    assert find_emoji("grin", {"grin": "1F600"}, unicode) == one
    assert find_emoji("grin", {"grin": "1F9FF"}, unicode) == two
    assert find_emoji("grin-medium-dark", {}, unicode) == one
    assert find_emoji("frown", {}, unicode) is None
    assert bare_code("2764-fe0f-200d-1f525") == "2764-200D-1F525"


def test_missing_renderer_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DatasetError, match=r"emoji: the package 'resvg_py' is not installed .*pip install 'corruptkit\[emoji\]'"):
        fetch("emoji", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_style_is_there(archives: Path, tmp_path: Path) -> None:
    out = fetch("emoji", tmp_path / "emoji", given=archives)
    rows = read_rows(out)
    assert Counter(row.key.partition("/")[0] for row in rows) == COUNTS
    assert read_record(out)["left_out"] == LEFT_OUT
    assert len({row.caption for row in rows}) == CAPTIONS
    assert conditions_digest(rows) == CONDITIONS
    assert [row.key for row in rows] == sorted(row.key for row in rows)
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):  # the renderer's floats were pinned there
        assert shards_digest(out) == SHARDS
