"""Open Clip Art as it really lies in its packages: titles as people typed them, and XML that cannot do harm."""

from __future__ import annotations

import struct
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from corruptkit.catalog import load_catalog
from corruptkit.fetching import fetch, openclipart
from corruptkit.fetching.archives import read_members
from corruptkit.fetching.openclipart import DRAWINGS, IMAGES, Drawing, count_pixels, find_fault, read_drawing
from tests.corruptkit.fetched import conditions_digest, download_archives, read_record, read_rows, read_tree, shards_digest

CONDITIONS = "16f9f45188695e31"
SHARDS = "f6fc6f238f017ed3"
CLASSES = {
    "animals": 281,
    "buildings": 68,
    "buttons": 3,
    "computer": 1776,
    "containers": 16,
    "decorations": 26,
    "education": 44,
    "electronics": 36,
    "food": 318,
    "geography": 130,
    "logos": 7,
    "office": 105,
    "people": 344,
    "plants": 65,
    "recreation": 486,
    "science": 18,
    "shapes": 204,
    "signs_and_symbols": 975,
    "special": 101,
    "tools": 123,
    "transportation": 164,
    "unsorted": 150,
}
PUBLIC = "http://web.resource.org/cc/PublicDomain"
pytestmark = pytest.mark.xdist_group("openclipart")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return download_archives(tmp_path_factory, (IMAGES, DRAWINGS))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the packages begin with."""
    monkeypatch.setattr(openclipart, "read_members", lambda path, names: islice(read_members(path, names), 400))


def svg(work: str, before: str = "", after: str = "</svg>") -> bytes:
    return f'{before}<svg xmlns:rdf="r" xmlns:cc="c" xmlns:dc="d"><metadata><rdf:RDF>{work}</rdf:RDF></metadata>{after}'.encode()


def work(title: str, licence: str = PUBLIC) -> str:
    maker = "<dc:creator><cc:Agent><dc:title>Anna</dc:title></cc:Agent></dc:creator>"
    return f'<cc:Work rdf:about=""><dc:title>{title}</dc:title>{maker}<cc:license rdf:resource="{licence}"/></cc:Work>'


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", width, height) + bytes(9)


@pytest.mark.usefixtures("few")
def test_first_rows_are_as_they_lie(archives: Path, tmp_path: Path) -> None:
    out = fetch("openclipart", tmp_path / "out", given=archives)
    rows = read_rows(out)
    assert read_record(out)["rows"] == len(rows) > 250
    images = dict(islice(read_members(archives / IMAGES.file, r"usr/share/openclipart/png/[\w./+-]+\.png"), 400))
    assert {row.members["png"] for row in rows} <= set(images.values())
    armadillo = next(row for row in rows if row.key == "animals/armadillo_architetto_fra_01")
    assert (armadillo.caption, openclipart.CLASS_NAMES[armadillo.label]) == ("Armadillo", "animals")
    assert armadillo.record["license"] == "Public Domain"
    assert not any("key" in row.record for row in rows), "keys are named after titles"
    assert all(row.suffixes == ["png", "txt", "cls", "json"] for row in rows)
    assert read_tree(fetch("openclipart", tmp_path / "again", given=archives)) == read_tree(out)


@pytest.mark.slow
def test_every_row_is_there(archives: Path, tmp_path: Path) -> None:
    out = fetch("openclipart", tmp_path / "out", given=archives)
    rows = read_rows(out)
    assert len(rows) == openclipart.ROWS == 6900 - sum(LEFT_OUT.values())
    assert read_record(out)["left_out"] == LEFT_OUT
    assert Counter(openclipart.CLASS_NAMES[row.label] for row in rows) == CLASSES
    assert (conditions_digest(rows), shards_digest(out)) == (CONDITIONS, SHARDS)
    assert " armenia" in {row.caption for row in rows}, "blanks that somebody typed stay"


LEFT_OUT = {"generated_stars": 1378, "without_metadata": 5, "without_title": 58, "without_public_domain": 2, "too_large": 17}


def test_catalog_entry_is_true() -> None:
    source = load_catalog().source("openclipart")
    assert source.class_names == openclipart.CLASS_NAMES == tuple(sorted(CLASSES))
    assert source.splits == {"train": openclipart.ROWS} == {"train": sum(CLASSES.values())}
    assert (source.license, source.license_url, source.attribution) == (
        openclipart.LICENSE,
        openclipart.LICENSE_URL,
        openclipart.ATTRIBUTION,
    )
    assert not source.needs_consent


# Titles


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (svg(work("Armadillo")), Drawing("Armadillo", PUBLIC)),
        (svg(work(" a  cat\n")), Drawing(" a  cat\n", PUBLIC)),
        (svg(work("Castilla y Le&#243;n &amp; more")), Drawing("Castilla y León & more", PUBLIC)),
        (svg(work("cut", "GPL")), Drawing("cut", "GPL")),
        (svg(work("")), Drawing("", PUBLIC)),
        (svg(work("first") + work("second")), Drawing("first", PUBLIC)),
        (svg(work("whole"), after="<path"), Drawing("whole", PUBLIC)),
        (svg(work("here"), before='<!DOCTYPE svg SYSTEM "file:///etc/passwd">'), Drawing("here", PUBLIC)),
        (svg("<cc:Agent><dc:title>x</dc:title></cc:Agent>"), None),
        (svg(work("&undeclared;")), None),
        (b"", None),
        (b"\x00\xff", None),
        (b'<?xml version="1.0" encoding="nonsense"?><a/>', None),
        (svg("<cc:Work>"), None),
    ],
)
def test_title_is_read_as_it_stands(content: bytes, found: Drawing | None) -> None:
    assert read_drawing(content) == found


@pytest.mark.parametrize(
    "declared",
    [
        '<!ENTITY a "laugh">',
        '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">',
        '<!ENTITY a SYSTEM "file:///etc/passwd">',
        '<!ENTITY % a SYSTEM "http://example.org/a.dtd"> %a;',
    ],
)
def test_file_that_declares_an_entity_is_not_read(declared: str) -> None:
    assert read_drawing(svg(work("&a;"), before=f"<!DOCTYPE svg [{declared}]>")) is None


@pytest.mark.parametrize(
    ("path", "image", "drawing", "fault"),
    [
        ("animals/cat", png(4096, 4096), Drawing("cat", PUBLIC), ""),
        ("animals/cat", png(4097, 4096), Drawing("cat", PUBLIC), "too_large"),
        ("animals/cat", png(0xFFFFFFFF, 0xFFFFFFFF), Drawing("cat", PUBLIC), "too_large"),
        ("animals/cat", b"GIF89a", Drawing("cat", PUBLIC), "too_large"),
        ("animals/cat", png(1, 1), Drawing("cat", "http://creativecommons.org/licenses/GPL/2.0/"), "without_public_domain"),
        ("animals/cat", png(1, 1), Drawing(" \n", PUBLIC), "without_title"),
        ("animals/cat", png(1, 1), None, "without_metadata"),
        ("shapes/stars/one", png(1, 1), Drawing("star", PUBLIC), "generated_stars"),
    ],
)
def test_fault_is_found(path: str, image: bytes, drawing: Drawing | None, fault: str) -> None:
    assert find_fault(path, image, drawing) == fault
    assert count_pixels(png(3, 5)) == 15
