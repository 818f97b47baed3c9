"""The index: what it says of a source, where its file lies, and when that file is believed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

from corruptkit import index as indexing
from corruptkit.dataset import Dataset
from corruptkit.errors import DatasetError
from corruptkit.index import SCHEMA, Index, load_index, make_index, save_index
from corruptkit.opening import open_dataset
from tests.corruptkit.shards import MEMBERS, Row, make_rows, row_members, write_shards, write_tar
from tests.corruptkit.strategies import index_rows

ROWS = make_rows(20, classes=4)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty rows in two shards, and a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_shards(tmp_path / "source", ROWS)


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every source that is scanned from here on."""
    found: list[Path] = []
    scan = indexing.scan_source
    monkeypatch.setattr(indexing, "scan_source", lambda *arguments: found.append(arguments[0].path) or scan(*arguments))
    return found


def index_files(folder: Path) -> list[Path]:
    return sorted((folder / ".corruptkit").glob("*"))


def cache_files(source: Path) -> list[Path]:
    return sorted(path for path in (source.parent / "cache").rglob("*") if path.is_file())


def close_folder(source: Path) -> None:
    """No index can lie beside this source: even the superuser makes no folder where a file lies."""
    shutil.rmtree(source / ".corruptkit", ignore_errors=True)
    (source / ".corruptkit").touch()


def equal_indexes(a: Index, b: Index) -> bool:
    return a.table.equals(b.table) and a.meta == b.meta


# What it says


def test_index_has_a_row_a_sample_in_source_order(source: Path) -> None:
    table = open_dataset(source).index().table
    assert table.schema == SCHEMA
    assert table["key"].to_pylist() == [row.key for row in ROWS]
    assert table["label"].to_pylist() == [row.label for row in ROWS]
    assert table["caption"].to_pylist() == [row.caption for row in ROWS]
    assert table["shard"].to_pylist() == [0] * 10 + [1] * 10
    assert table["position"].to_pylist() == [*range(10), *range(10)]
    for row, place, length, shard in zip(ROWS, *(table[name].to_pylist() for name in ("offset", "length", "shard")), strict=True):
        part = (source / f"shard-{shard:05d}.tar").read_bytes()[place : place + length]
        assert f"{row.key}.png".encode() in part[:100]
        assert part.count(b"ustar") == len(MEMBERS)


def test_index_knows_its_shards(source: Path) -> None:
    meta = open_dataset(source).index().meta
    stats = [(shard.name, shard.bytes, shard.mtime_ns, shard.rows) for shard in meta.shards]
    files = [source / f"shard-0000{n}.tar" for n in (0, 1)]
    assert stats == [(file.name, file.stat().st_size, file.stat().st_mtime_ns, 10) for file in files]
    assert (meta.split, meta.key_rule, meta.classes, meta.classes_inferred, meta.null_label) == ("train", "sample", 4, True, False)


def test_rows_ascend_by_key_bytes_whatever_the_order_of_files(tmp_path: Path) -> None:
    rows = [Row(key, label, f"caption {key}") for label, key in enumerate(["b", "😀", "\ufffd", "a/z", "Z", "é"])]
    index = open_dataset(write_shards(tmp_path / "s", rows, shards=3)).index()
    expected = sorted(rows, key=lambda row: row.key.encode())
    found = index.rows()
    assert found.keys.to_pylist() == [row.key for row in expected]
    assert found.labels.tolist() == [row.label for row in expected]
    assert found.captions.to_pylist() == [row.caption for row in expected]
    assert index.column("key").to_pylist() == [row.key for row in rows]


def test_fingerprint_does_not_depend_on_shards_or_order(tmp_path: Path) -> None:
    marks = set()
    for number, (rows, shards, members) in enumerate(
        [(ROWS, 1, MEMBERS), (ROWS[::-1], 3, MEMBERS), (ROWS, 7, ("json", "jpg")), (ROWS, 25, ("cls", "txt", "webp"))]
    ):
        marks.add(open_dataset(write_shards(tmp_path / str(number), rows, shards=shards, members=members)).index().meta.fingerprint)
    assert len(marks) == 1
    assert open_dataset(write_shards(tmp_path / "other", [*ROWS[1:], ROWS[0]._replace(label=1)])).index().meta.fingerprint not in marks


def test_workers_find_the_same_index(source: Path) -> None:
    alone, together = (open_dataset(source).index(workers=n, cache=False) for n in (1, 2))
    assert equal_indexes(alone, together)


def test_source_without_rows_has_an_index(tmp_path: Path) -> None:
    index = open_dataset(write_shards(tmp_path / "s", [], shards=2)).index()
    assert (len(index), index.meta.classes, len(index.rows())) == (0, None, 0)
    assert index.rows().labels is index.rows().captions is None


@pytest.mark.parametrize(
    ("classes", "captions", "columns"), [(4, None, (True, False)), (None, 9, (False, True)), (None, None, (False, False))]
)
def test_field_that_no_row_has_is_no_column(classes: int | None, captions: int | None, columns: tuple[bool, bool]) -> None:
    rows = index_rows(make_rows(6, classes=classes, captions=captions)).rows()
    assert (rows.labels is not None, rows.captions is not None) == columns


# Classes


def test_classes_are_inferred_or_stated(source: Path) -> None:
    for classes, expected in ((None, (4, True)), (4, (4, False)), (9, (9, False))):
        meta = open_dataset(source, classes=classes).index().meta
        assert (meta.classes, meta.classes_inferred) == expected


def test_label_beyond_the_stated_classes_is_named(source: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        open_dataset(source, classes=3).index()
    shard = source / "shard-00000.tar"
    assert str(caught.value) == f"{shard}, 000000003: label 3, expected labels below 3; state the right --classes or mend the label"


def test_null_label_may_be_the_number_of_classes() -> None:
    rows = [Row("a", 0), Row("b", 2), Row("c", 3)]
    index = index_rows(rows, classes=3, null_label=True)
    assert (index.meta.classes, index.identity()["null_label"]) == (3, True)
    assert index.rows().real_labels().tolist() == [True, True, False]
    assert [column.tolist() for column in index.rows().class_counts()] == [[0, 2], [1, 1]]
    with pytest.raises(DatasetError, match="label 4, expected labels below 3"):
        index_rows([*rows, Row("d", 4)], classes=3, null_label=True)
    with pytest.raises(DatasetError, match="label 3, expected labels below 3"):
        index_rows(rows, classes=3)
    assert index_rows(rows, null_label=True).meta.classes == 3
    assert "null_label" not in index_rows(rows).identity()


# Keys


def test_duplicate_keys_are_refused_and_the_first_five_named(tmp_path: Path) -> None:
    shared = [Row(f"{n:02d}", caption="x") for n in range(8)]
    write_shards(tmp_path / "s", [*shared, Row("alone", caption="x"), *shared[::-1]], shards=2)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path / "s").index()
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{tmp_path / 's' / 'shard-00001.tar'}, {n:02d}" for n in range(5)]
    assert all("duplicate key (8 in all), expected keys that are unique in a split; choose another --key rule" in line for line in lines)


def test_duplicate_keys_within_a_shard_are_refused(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("a.txt", b"1"), ("b.txt", b"2"), ("a.cls", b"3")])
    with pytest.raises(DatasetError, match=r"a\.tar, a: duplicate key \(1 in all\)"):
        open_dataset(shard).index()


def write_repeating(folder: Path) -> Path:
    """Two shards with the same sample keys, as some tools write them."""
    folder.mkdir()
    for number in (0, 1):
        members = [(f"{row.key}.{suffix}", content) for row in make_rows(3) for suffix, content in row_members(row)]
        write_tar(folder / f"part-{number}.tar", members)
    return folder


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        ("shard/key", [f"part-{shard}/{row:09d}" for shard in (0, 1) for row in range(3)]),
        ("ordinal", [f"row-{row:012d}" for row in range(6)]),
    ],
)
def test_rule_for_repeating_keys_makes_them_unique(tmp_path: Path, rule: str, keys: list[str]) -> None:
    folder = write_repeating(tmp_path / "s")
    with pytest.raises(DatasetError, match="duplicate key"):
        open_dataset(folder).index()
    opened = open_dataset(folder, key=rule)
    assert opened.index().column("key").to_pylist() == keys
    assert [row["key"] for row in opened.rows()] == keys
    assert opened.row(4)["key"] == keys[4]


def test_stem_rule_drops_the_folder(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "s", [Row("n01440764/n01440764_10026", 0), Row("n02/n02_5", 1)])
    assert open_dataset(folder, key="stem").index().column("key").to_pylist() == ["n01440764_10026", "n02_5"]


def test_json_and_regex_rules_read_the_key_where_it_is(source: Path) -> None:
    assert open_dataset(source, key="json:key").index().column("key").to_pylist() == [row.key for row in ROWS]
    assert open_dataset(source, key=r"regex:(\d{3})$").index().column("key").to_pylist() == [f"{n:03d}" for n in range(20)]


# Where its file lies


def test_index_lies_beside_the_source_and_is_used_again(source: Path, scans: list[Path]) -> None:
    first = open_dataset(source).index()
    (file,) = index_files(source)
    assert file.name.startswith("index-")
    assert file.suffix == ".arrow"
    second = open_dataset(source).index()
    assert scans == [source]
    assert equal_indexes(first, second)
    assert cache_files(source) == []


@pytest.mark.parametrize("change", ["time", "size", "new shard", "gone shard"])
def test_changed_source_is_indexed_anew(source: Path, scans: list[Path], change: str) -> None:
    open_dataset(source).index()
    shard = source / "shard-00001.tar"
    stat = shard.stat()
    if change == "time":
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        with shard.open("ab") as file:
            file.write(bytes(512))
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "new shard":
        write_tar(source / "shard-00002.tar", [("new.txt", b"a new row")])
    else:
        shard.unlink()
    expected = {"new shard": 21, "gone shard": 10}.get(change, 20)
    assert len(open_dataset(source).index()) == expected
    assert len(scans) == 2
    open_dataset(source).index()
    assert len(scans) == 2


@pytest.mark.parametrize(
    "how", [{"key": "stem"}, {"classes": 9}, {"caption_column": "caption"}, {"label_column": "label"}, {"split": "mine"}]
)
def test_other_question_has_an_index_of_its_own(source: Path, scans: list[Path], how: dict[str, object]) -> None:
    path = source / "*.tar" if "split" in how else source
    for _ in range(2):
        open_dataset(path).index()
        open_dataset(path, **how).index()
    assert len(scans) == 2
    assert len(index_files(source)) == 2


def test_pattern_and_single_tar_keep_their_index_beside_the_shards(source: Path) -> None:
    assert len(open_dataset(source / "shard-*0.tar").index()) == 10
    assert len(open_dataset(source / "shard-00001.tar").index()) == 10
    assert len(index_files(source)) == 2


def test_source_that_cannot_be_written_to_has_its_index_in_the_cache(source: Path, scans: list[Path]) -> None:
    close_folder(source)
    first = open_dataset(source).index()
    (file,) = cache_files(source)
    assert file.parent.parent == source.parent / "cache" / "corruptkit"
    assert equal_indexes(open_dataset(source).index(), first)
    assert len(scans) == 1


def test_source_needs_no_place_for_an_index(source: Path) -> None:
    close_folder(source)
    (source.parent / "cache").touch()
    assert len(open_dataset(source).index()) == 20
    assert open_dataset(source).row(7)["key"] == ROWS[7].key


def test_index_is_not_written_where_none_is_wanted(source: Path) -> None:
    open_dataset(source).index(cache=False)
    assert index_files(source) == []


def test_index_is_read_once_for_a_data_set(source: Path, scans: list[Path]) -> None:
    opened: Dataset = open_dataset(source)
    assert opened.index(cache=False) is opened.index()
    assert len(opened) == 20
    assert len(scans) == 1


# When its file is believed


def replace_meta(file: Path, **changes: object) -> None:
    index = load_index(file)
    assert index is not None
    save_index(Index(index.table, index.meta.model_copy(update=changes)), file)


FOREIGN = {
    "empty": b"",
    "text": b"not an index",
    "an arrow header": b"ARROW1\0\0" + bytes(100),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_file_is_no_index(source: Path, content: bytes) -> None:
    fresh = open_dataset(source).index(cache=False)
    open_dataset(source).index()
    (file,) = index_files(source)
    file.write_bytes(content)
    assert load_index(file) is None
    assert equal_indexes(open_dataset(source).index(), fresh)
    assert load_index(file) is not None


@pytest.mark.parametrize(
    "change",
    [{"version": "0"}, {"shards": ()}, {"fingerprint": None}],
    ids=["another version", "other shards", "no fingerprint"],
)
def test_index_of_another_making_is_made_anew(source: Path, scans: list[Path], change: dict[str, object]) -> None:
    fresh = open_dataset(source).index()
    (file,) = index_files(source)
    replace_meta(file, **change)
    assert equal_indexes(open_dataset(source).index(), fresh)
    assert len(scans) == 2


def write_table(file: Path, table: pa.Table, metadata: dict[str, str] | None) -> None:
    table = table.replace_schema_metadata(metadata)
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("how", ["no metadata", "other metadata", "fewer columns", "other types", "no table"])
def test_table_of_another_shape_is_no_index(source: Path, how: str) -> None:
    index = open_dataset(source).index(cache=False)
    open_dataset(source).index()
    (file,) = index_files(source)
    mark = {"corruptkit": index.meta.model_dump_json()}
    if how == "no metadata":
        write_table(file, index.table, None)
    elif how == "other metadata":
        write_table(file, index.table, {"corruptkit": "[]"})
    elif how == "fewer columns":
        write_table(file, index.table.drop_columns("hash"), mark)
    elif how == "other types":
        place = index.table.column_names.index("label")
        write_table(file, index.table.set_column(place, "label", index.table["label"].cast(pa.int32())), mark)
    else:
        write_table(file, pa.table({}), mark)
    assert load_index(file) is None
    assert equal_indexes(open_dataset(source).index(), index)


def test_cut_index_is_made_anew(source: Path) -> None:
    fresh = open_dataset(source).index()
    (file,) = index_files(source)
    whole = file.read_bytes()
    for stop in range(0, len(whole), 211):
        file.unlink()
        file.write_bytes(whole[:stop])
        assert equal_indexes(open_dataset(source).index(), fresh), f"cut at {stop} of {len(whole)}"


# Damage could end the process that reads the file, so another one reads it.
DAMAGED = """
import sys
from pathlib import Path
from corruptkit.opening import open_dataset
source, file = Path(sys.argv[1]), Path(sys.argv[2])
fresh = open_dataset(source).index(cache=False)
whole = file.read_bytes()
for number, place in enumerate(range(0, len(whole), 31)):
    damaged = bytearray(whole)
    damaged[place] ^= 1 << number % 8
    file.unlink()
    file.write_bytes(damaged)
    found = open_dataset(source).index()
    if not found.table.equals(fresh.table) or found.meta != fresh.meta:
        sys.exit(f"bit {number % 8} of byte {place} of {len(whole)} was believed")
print("done")
"""


def test_damaged_index_is_made_anew(source: Path) -> None:
    open_dataset(source).index()
    (file,) = index_files(source)
    done = subprocess.run([sys.executable, "-c", DAMAGED, source, file], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr[-500:], done.returncode) == ("done\n", "", 0)


def test_missing_shard_is_an_error_of_the_source(source: Path) -> None:
    opened = open_dataset(source)
    (source / "shard-00001.tar").unlink()
    with pytest.raises(
        DatasetError, match=r"shard-00001\.tar: cannot be read: No such file or directory; mend the path or its permissions"
    ):
        opened.index()


def test_shard_of_another_form_is_an_error_of_the_source(source: Path) -> None:
    with tarfile.open(source / "shard-00001.tar", "w:gz") as archive:
        archive.add(source / "shard-00000.tar", "a.jpg")
    with pytest.raises(DatasetError, match=r"shard-00001\.tar: a gzip file, expected a whole tar archive"):
        open_dataset(source).index()
    assert index_files(source) == []


def test_index_of_tables_is_checked_like_one_of_files() -> None:
    def join_keys(*keys: Sequence[str]) -> Index:
        return index_rows([Row(key) for part in keys for key in part], shards=len(keys))

    assert len(join_keys(["a"], ["b"])) == 2
    with pytest.raises(DatasetError, match="shard-00001"):
        join_keys(["a"], ["a"])
    empty = make_index([], [], split="train", key_rule="sample", classes=None, null_label=False, where="nowhere")
    assert (len(empty), empty.table.schema) == (0, SCHEMA)
