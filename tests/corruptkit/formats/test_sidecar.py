"""img2dataset's Parquet beside a shard: its clean conditions follow the rows, and everything else stays."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corruptkit.errors import DatasetError
from corruptkit.formats.conditions import Columns
from corruptkit.formats.sidecar import carried_files, check_sidecar, rewrite_sidecar, sidecar_of

USUAL = Columns()
SWAP = {"000000001": {"caption": ("b", "é new")}}
COLUMNS = {
    "caption": pa.array(["a", "b", None, "b"]),
    "url": pa.array(["https://example.org/0", "https://example.org/1", "https://example.org/2", "https://example.org/3"]),
    "key": pa.array(["000000000", "000000001", "000000002", "000000003"]),
    "status": pa.array(["success", "success", "failed_to_download", "success"]),
    "width": pa.array([64, 64, None, 64], pa.int32()),
    "exif": pa.array(["{}", "{}", None, "{}"]),
    "sha256": pa.array(["0", "1", None, "3"]),
}


def write_sidecar(folder: Path, columns: dict[str, pa.Array] = COLUMNS, **how: object) -> Path:
    pq.write_table(pa.table(columns).replace_schema_metadata({"made by": "a test"}), folder / "00000.parquet", **how)
    return folder / "00000.parquet"


def read_back(content: bytes | None) -> pa.Table:
    assert content is not None, "the side-car should have been rewritten"
    return pq.read_table(io.BytesIO(content))


def replace_column(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_caption_follows_the_row_and_all_else_stays(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path)
    expected = replace_column(pq.read_table(path), "caption", ["a", "é new", None, "b"])
    found = read_back(rewrite_sidecar(path, SWAP, USUAL))
    assert found.equals(expected, check_metadata=True)


def test_failed_row_gets_no_caption(tmp_path: Path) -> None:
    edits = {"000000002": {"caption": ("", "new")}, "000000001": {"caption": ("b", "c")}}
    found = read_back(rewrite_sidecar(write_sidecar(tmp_path), edits, USUAL))
    assert found["caption"].to_pylist() == ["a", "c", None, "b"]


@pytest.mark.parametrize(
    ("kind", "new"), [(pa.int32(), 9), (pa.int64(), 9), (pa.uint16(), 9), (pa.string(), "9"), (pa.large_string(), "9")]
)
def test_label_keeps_the_columns_type(tmp_path: Path, kind: pa.DataType, new: object) -> None:
    path = write_sidecar(tmp_path, COLUMNS | {"label": pa.array([0, 1, 2, 3]).cast(kind)})
    found = read_back(rewrite_sidecar(path, {"000000003": {"label": ("3", "9")}}, USUAL))
    assert found.schema.field("label").type == kind
    assert found["label"].to_pylist()[3] == new
    assert found.drop_columns("label").equals(pq.read_table(path).drop_columns("label"))


def test_both_fields_change_at_once(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path, COLUMNS | {"label": pa.array([0, 1, 2, 3])})
    found = read_back(rewrite_sidecar(path, {"000000001": {"label": ("1", "7"), "caption": ("b", "c")}}, USUAL))
    assert (found["label"].to_pylist(), found["caption"].to_pylist()) == ([0, 7, 2, 3], ["a", "c", None, "b"])


def test_stated_columns_are_the_ones_that_change(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path, COLUMNS | {"alt": COLUMNS["caption"]})
    found = read_back(rewrite_sidecar(path, SWAP, Columns(caption="alt")))
    assert found["alt"].to_pylist() == ["a", "é new", None, "b"]
    assert found["caption"].to_pylist() == ["a", "b", None, "b"]


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
def test_codec_stays(tmp_path: Path, codec: str) -> None:
    path = write_sidecar(tmp_path, compression=codec)
    before = pq.ParquetFile(path).metadata.row_group(0).column(0).compression
    found = rewrite_sidecar(path, SWAP, USUAL)
    assert pq.ParquetFile(io.BytesIO(found)).metadata.row_group(0).column(0).compression == before


def test_same_edits_give_the_same_bytes(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path)
    assert rewrite_sidecar(path, SWAP, USUAL) == rewrite_sidecar(path, SWAP, USUAL)


@pytest.mark.parametrize(
    ("columns", "edits"),
    [
        (COLUMNS, {}),
        (COLUMNS, {"000000001": {"label": ("1", "2")}}),
        (COLUMNS, {"000000002": {"caption": ("", "new")}}),
        ({name: column for name, column in COLUMNS.items() if name != "caption"}, SWAP),
    ],
    ids=["no edit", "no such column", "a failed row", "no caption"],
)
def test_sidecar_without_an_edit_is_left_to_be_copied(tmp_path: Path, columns: dict[str, pa.Array], edits: dict) -> None:
    assert rewrite_sidecar(write_sidecar(tmp_path, columns), edits, USUAL) is None


NUMBERS = pa.array(range(len(COLUMNS["key"])), pa.int64())
TWICE = pa.array(["000000001"] * len(COLUMNS["key"]))
UNFIT = {
    "no key": ({name: column for name, column in COLUMNS.items() if name != "key"}, "no column 'key', expected keys as text"),
    "keys as numbers": (COLUMNS | {"key": NUMBERS}, "keys of type int64, expected keys as text"),
    "no row": ({name: column.slice(0, 0) for name, column in COLUMNS.items()}, "0 rows of the key '000000001', expected one row"),
    "a key twice": (COLUMNS | {"key": TWICE}, "rows of the key '000000001', expected one row of each sample"),
    "captions as numbers": (COLUMNS | {"caption": NUMBERS}, "a caption of type int64, expected text"),
}


@pytest.mark.parametrize(("columns", "said"), UNFIT.values(), ids=UNFIT.keys())
def test_sidecar_that_would_keep_a_clean_condition_is_refused(tmp_path: Path, columns: dict[str, pa.Array], said: str) -> None:
    with pytest.raises(DatasetError) as caught:
        rewrite_sidecar(write_sidecar(tmp_path, columns), SWAP, USUAL)
    assert said in str(caught.value)
    assert "mend it or move it away" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not Parquet", b"PAR1" + bytes(40) + b"PAR1"])
def test_sidecar_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "00000.parquet").write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        rewrite_sidecar(tmp_path / "00000.parquet", SWAP, USUAL)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / '00000.parquet'}: it cannot be read: ")
    assert text.endswith("expected img2dataset's Parquet; fetch it anew or remove it")


def test_sidecar_of_texts_or_names_that_are_no_utf_8_is_refused(tmp_path: Path) -> None:
    odd = pa.array([b"\xe9"] * 4, pa.binary()).view(pa.string())
    texts = write_sidecar(tmp_path, COLUMNS | {"status": odd}, compression="none")
    with pytest.raises(DatasetError, match=r"it cannot be read: .*UTF"):
        rewrite_sidecar(texts, SWAP, USUAL)
    names = write_sidecar(tmp_path)
    names.write_bytes(names.read_bytes().replace(b"url", b"\xe9\xe9l"))
    for refuse in (lambda: rewrite_sidecar(names, SWAP, USUAL), lambda: check_sidecar(names.with_suffix(".tar"))):
        with pytest.raises(DatasetError, match="it cannot be read: 'utf-8'"):
            refuse()


def test_sidecar_stands_beside_its_shard(tmp_path: Path) -> None:
    path = write_sidecar(tmp_path)
    (tmp_path / "00001.parquet").mkdir()
    assert sidecar_of(tmp_path / "00000.tar") == path
    assert sidecar_of(tmp_path / "00001.tar") is None
    assert sidecar_of(tmp_path / "00002.tar") is None


def test_licences_and_counts_are_carried_and_nothing_else(tmp_path: Path) -> None:
    carried = [
        "ATTRIBUTION.md",
        "COPYING",
        "LICENCE",
        "LICENSE.txt",
        "NOTICE",
        "00000_stats.json",
        "_info.json",
        "info.json",
        "sizes.json",
        "__len__",
    ]
    for name in [*carried, "README.md", "captions.json", "00000.parquet", "00000.tar", "labels.csv", "license.txt", ".LICENSE"]:
        (tmp_path / name).touch()
    (tmp_path / "LICENSES").mkdir()
    assert [path.name for path in carried_files(tmp_path)] == sorted(carried)
