"""Every layout: one data set in several of them is one, a variant reads back equal from each, and readers of others open it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import corruptkit as ck
from corruptkit.cli import main
from corruptkit.errors import CatalogError, DatasetError, LeftoverWarning
from tests.corruptkit.shards import Row, read_tree, write_shards, write_tar

FORMATS = ("webdataset", "parquet", "arrow", "overlay")
NOTHING = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0")])
FLIP = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.1")])
BOTH = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1"), ck.Flip(ratio="0.1")])


def draw_png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256, 7)).save(content, "PNG")
    return content.getvalue()


ROWS = [Row(f"n{i % 5}_{i:04d}", i % 5, f"a photo of thing {i % 97}", draw_png(i)) for i in range(120)]


def read_all(dataset: ck.Dataset) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in dataset.rows()}


def read_sources(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in read_tree(folder).items() if "/index-" not in name}


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "tars", ROWS, shards=3, members=("png", "cls", "txt", "json"))


def write_folder(root: Path) -> Path:
    for row in ROWS:
        path = root / "train" / f"class{row.label}" / f"{row.key}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.image or b"")
    return root


def write_hub(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    for number in range(2):
        part = ROWS[number * 60 : (number + 1) * 60]
        images = [{"bytes": row.image, "path": f"{row.key}.png"} for row in part]
        table = pa.table({"image": images, "label": [row.label for row in part]})
        pq.write_table(table, root / "data" / f"train-{number:05d}-of-00002.parquet", row_group_size=25)
    return root


def test_layout_does_not_decide_the_variant(tmp_path: Path) -> None:
    write_shards(tmp_path / "timm", ROWS, shards=3, members=("png", "cls"))
    write_hub(tmp_path / "hub")
    write_folder(tmp_path / "folder")
    opened = [ck.open_dataset(tmp_path / name, key="stem") for name in ("timm", "hub", "folder")]
    assert [dataset.layout.format for dataset in opened] == ["webdataset", "parquet", "imagefolder"]
    assert len({ck.make_plan(FLIP, dataset.index()).variant_id for dataset in opened}) == 1


def test_chain_of_formats_keeps_the_variant(tars: Path, tmp_path: Path) -> None:
    dataset = ck.open_dataset(tars)
    expected = ck.make_plan(BOTH, dataset.index()).variant_id
    for number, form in enumerate(("parquet", "arrow", "webdataset")):
        ck.write_variant(dataset, ck.make_plan(NOTHING, dataset.index()), tmp_path / str(number), form)
        dataset = ck.open_dataset(tmp_path / str(number))
        assert ck.make_plan(BOTH, dataset.index()).variant_id == expected
    assert read_all(dataset) == read_all(ck.open_dataset(tars))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_batches_of_tables_end_where_a_piece_ends(tmp_path: Path, form: str) -> None:
    dataset = ck.open_dataset(write_shards(tmp_path / "tars", ROWS, shards=2))
    ck.write_variant(dataset, ck.make_plan(NOTHING, dataset.index()), tmp_path / form, form)
    variant = ck.open_dataset(tmp_path / form)
    sizes = [len(batch) for batch in variant.batches(size=len(ROWS))]
    assert (len(variant.shards), sizes) == (2, [len(ROWS) // 2] * 2)  # asked for all at once, nothing was joined across shards
    small = [len(batch) for batch in variant.batches(size=7)]
    assert max(small) == 7
    assert sum(small) == len(ROWS)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", ["tars", "parquet", "arrow", "folder"])
def test_variant_in_any_format_reads_the_same(tmp_path: Path, source: str, form: str) -> None:
    path = write_folder(tmp_path / "folder") if source == "folder" else write_shards(tmp_path / "tars", ROWS, shards=2)
    dataset = ck.open_dataset(path)
    if source in ("parquet", "arrow"):
        ck.write_variant(dataset, ck.make_plan(NOTHING, dataset.index()), tmp_path / source, source)
        path = tmp_path / source
        dataset = ck.open_dataset(path)
    recipe = FLIP if source == "folder" else BOTH
    before = read_sources(path)
    out, back = tmp_path / "variant", tmp_path / "back"
    manifest = ck.write_variant(dataset, ck.make_plan(recipe, dataset.index()), out, form)
    variant, expected = ck.open_dataset(out), dataset.with_recipe(recipe)
    assert manifest.variant_id == ck.make_plan(recipe, dataset.index()).variant_id
    assert read_all(variant) == read_all(expected)
    assert [variant.row(n) for n in range(0, 120, 17)] == list(variant.rows())[::17]
    assert pa.Table.from_batches(variant.batches(size=17)).sort_by("key").equals(pa.Table.from_batches(expected.batches()).sort_by("key"))
    assert ck.verify(out, source=path, deep=form != "overlay").problems == ()
    ck.restore(out, back)
    assert read_sources(path) == before
    tables = [*back.rglob("*.parquet"), *back.rglob("*.arrow")]
    restored = ck.open_dataset(back, key="column:key" if tables and source != "folder" and not list(back.glob("*.tar")) else None)
    assert {row["image"] for row in restored.rows()} == {row.image for row in ROWS}
    assert len(restored) == len(ROWS)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_parquet_and_tars(tars: Path, tmp_path: Path, *, streaming: bool) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = ck.open_dataset(tars)
    expected = read_all(dataset.with_recipe(BOTH))
    for form, builder in (("parquet", "parquet"), ("webdataset", "webdataset")):
        ck.write_variant(dataset, ck.make_plan(BOTH, dataset.index()), tmp_path / form, form)
        files = str(tmp_path / form / ("data/*.parquet" if form == "parquet" else "*.tar"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(
                datasets.load_dataset(builder, data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "c"))
            )
        names = ("key", "label", "caption") if form == "parquet" else ("__key__", "cls", "txt")
        assert {row[names[0]]: (row[names[1]], row[names[2]]) for row in found} == {
            key: (row["label"], row["caption"]) for key, row in expected.items()
        }
        assert all(value is not None for row in found for value in row.values())


def test_datasets_opens_arrow_and_what_it_saves_is_a_source(tars: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = ck.open_dataset(tars)
    ck.write_variant(dataset, ck.make_plan(BOTH, dataset.index()), tmp_path / "arrow", "arrow")
    loaded = datasets.load_from_disk(str(tmp_path / "arrow"))
    assert loaded[3]["image"].size == (4, 4)
    assert loaded[3]["caption"] == list(dataset.with_recipe(BOTH).rows())[3]["caption"]
    datasets.DatasetDict({"train": loaded}).save_to_disk(str(tmp_path / "saved"))
    saved = ck.open_dataset(tmp_path / "saved")
    assert saved.index().meta.fingerprint == ck.open_dataset(tmp_path / "arrow").index().meta.fingerprint
    assert [row["caption"] for row in dataset.to_datasets()] == [row["caption"] for row in dataset.rows()]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_gives_captions(tmp_path: Path, name: str) -> None:
    for row in ROWS[:4]:
        (tmp_path / f"{row.key}.png").write_bytes(row.image or b"")
    if name.endswith("csv"):
        lines = ["file_name,text", *(f'{row.key}.png,"{row.caption}, big"' for row in ROWS[:4])]
    else:
        lines = [f'{{"file_name": "{row.key}.png", "text": "{row.caption}, big"}}' for row in ROWS[:4]]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    rows = list(ck.open_dataset(tmp_path).rows())
    assert [(row["key"], row["caption"], row["image"]) for row in rows] == [(r.key, f"{r.caption}, big", r.image) for r in ROWS[:4]]


def test_bad_samples_are_refused_or_excluded(tmp_path: Path) -> None:
    members = [
        (f"{row.key}.{suffix}", content) for row in ROWS[:20] for suffix, content in (("png", b"x"), ("cls", str(row.label).encode()))
    ]
    members[3] = (members[3][0], b"one")
    members += [(f"{ROWS[5].key}.png", b"again"), (f"{ROWS[5].key}.cls", b"1"), ("z.png", b"y")]
    (tmp_path / "s").mkdir()
    write_tar(tmp_path / "s" / "a.tar", members)
    with pytest.raises(DatasetError, match="the label 'one'"):
        ck.open_dataset(tmp_path / "s", label_column="cls").index()
    dataset = ck.open_dataset(tmp_path / "s", label_column="cls", bad="exclude")
    assert [row["reason"] for row in dataset.index().excluded.to_pylist()] == [
        "found the label 'one'",
        "a duplicate key",
        "a duplicate key",
        "no label",
    ]
    manifest = ck.write_variant(dataset, ck.make_plan(FLIP, dataset.index()), tmp_path / "v")
    assert (manifest.counts.rows, manifest.counts.excluded, manifest.counts.changed) == (18, 4, 2)
    assert ck.verify(tmp_path / "v", source=tmp_path / "s", deep=True).problems == ()
    assert read_all(ck.open_dataset(tmp_path / "v")) == read_all(dataset.with_recipe(FLIP))
    ck.write_variant(dataset, ck.make_plan(FLIP, dataset.index()), tmp_path / "p", "parquet")
    assert ck.verify(tmp_path / "p", source=tmp_path / "s", deep=True).problems == ()


def test_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_hub(tmp_path / "hub")
    with pytest.raises(DatasetError, match="no column 'nope', expected the column of the captions"):
        ck.open_dataset(tmp_path / "hub", caption_column="nope").index()
    with pytest.raises(CatalogError, match="unknown key rule 'sample' for parquet"):
        ck.open_dataset(tmp_path / "hub", key="sample")


@pytest.mark.parametrize("form", [None, "parquet", "arrow"])
def test_overlay_is_materialised(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str | None) -> None:
    dataset = ck.open_dataset(tars)
    ck.write_variant(dataset, ck.make_plan(BOTH, dataset.index()), tmp_path / "x.overlay", "overlay")
    monkeypatch.chdir(tmp_path)
    assert main(["make", "--from", "x.overlay", *(["--format", form] if form else [])]) == 0
    assert ck.read_manifest(tmp_path / "x").variant_id == ck.read_manifest(tmp_path / "x.overlay").variant_id
    assert ck.open_dataset(tmp_path / "x").layout.format == (form or "webdataset")
    assert read_all(ck.open_dataset(tmp_path / "x")) == read_all(ck.open_dataset(tmp_path / "x.overlay"))


def test_only_an_overlay_is_materialised(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = ck.open_dataset(tars)
    ck.write_variant(dataset, ck.make_plan(BOTH, dataset.index()), tmp_path / "x")
    assert main(["make", "--from", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 2
    assert "a variant in the format webdataset, expected an overlay" in capsys.readouterr().err
    assert main(["make", "--from", str(tmp_path / "x"), "--swap", "0.1"]) == 2
    assert "it stands beside --from" in capsys.readouterr().err


def test_overlay_is_materialised_of_a_source_that_has_moved(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = ck.open_dataset(tars)
    ck.write_variant(dataset, ck.make_plan(BOTH, dataset.index()), tmp_path / "x.overlay", "overlay")
    tars.rename(tmp_path / "moved")
    words = ["make", "--from", str(tmp_path / "x.overlay"), "--out", str(tmp_path / "x")]
    assert main(words) == 2
    assert "state --source PATH" in capsys.readouterr().err
    assert main([*words, "--source", str(tmp_path / "moved")]) == 0


def test_ordinals_count_over_shards_where_bad_samples_are_excluded(tars: Path) -> None:
    whole = ck.open_dataset(tars, key="ordinal").index()
    assert len(whole) == len(ROWS)
    assert ck.open_dataset(tars, key="ordinal", bad="exclude").index().meta.fingerprint == whole.meta.fingerprint


def test_loose_images_are_read_in_the_run_that_indexes_them(tmp_path: Path) -> None:
    for row in ROWS[:3]:
        (tmp_path / f"{row.key}.png").write_bytes(row.image or b"")
    dataset = ck.open_dataset(tmp_path)
    assert [dataset.row(number)["key"] for number in range(len(dataset))] == [row.key for row in ROWS[:3]]


def test_image_that_is_added_deep_in_a_class_is_seen(tmp_path: Path) -> None:
    for name in ("a/deep/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x")
    assert [(row["key"], row["label"]) for row in ck.open_dataset(tmp_path).rows()] == [("a/deep/1", 0), ("b/2", 1)]
    (tmp_path / "a/deep/0.png").write_bytes(b"x")
    assert len(ck.open_dataset(tmp_path)) == 3


def test_row_of_metadata_without_its_image_is_refused_or_excluded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one\nb.png,two\n")
    with pytest.raises(DatasetError, match=r"metadata.csv, row 2: no file 'b.png'"):
        ck.open_dataset(tmp_path).index()
    dataset = ck.open_dataset(tmp_path, bad="exclude")
    assert [row["caption"] for row in dataset.rows()] == ["one"]
    assert dataset.index().excluded["reason"].to_pylist() == ["no file 'b.png'"]


def test_metadata_does_not_lead_out_through_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"secret")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "sub").symlink_to(tmp_path / "out")
    (tmp_path / "src" / "metadata.csv").write_text("file_name,text\nsub/a.png,one\n")
    with pytest.raises(DatasetError, match="leads out of the folder"):
        ck.open_dataset(tmp_path / "src").index()


def test_shards_of_one_column_in_two_types_are_refused(tmp_path: Path) -> None:
    for name, value in (("0", 1), ("1", "x")):
        pq.write_table(pa.table({"key": [name], "label": [0], "n": [value]}), tmp_path / f"{name}.parquet")
    with pytest.raises(DatasetError, match=r"1.parquet: the column 'n' is of type string, expected int64, as in another shard"):
        next(ck.open_dataset(tmp_path).batches())


def test_nested_columns_reach_datasets(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    pq.write_table(pa.table({"key": ["a"], "label": [0], "n": [[1, 2]]}), tmp_path / "0.parquet")
    assert next(iter(ck.open_dataset(tmp_path).to_datasets()))["n"] == [1, 2]


def test_deep_check_of_another_format_compares_licences(tars: Path, tmp_path: Path) -> None:
    (tars / "LICENSE").write_text("mine")
    dataset = ck.open_dataset(tars)
    ck.write_variant(dataset, ck.make_plan(BOTH, dataset.index()), tmp_path / "p", "parquet")
    assert ck.verify(tmp_path / "p", source=tars, deep=True).problems == ()
    (tars / "LICENSE").write_text("other")
    assert "LICENSE" in str(ck.verify(tmp_path / "p", source=tars, deep=True).problems[0])


@pytest.mark.parametrize(("field", "suffix"), [("label", "cls"), ("caption", "txt")])
def test_webdataset_reads_tars_of_a_folder_of_images(tmp_path: Path, field: str, suffix: str) -> None:
    wds = pytest.importorskip("webdataset")
    folder = write_folder(tmp_path / "folder")
    if field == "caption":
        lines = [f"class{row.label}/{row.key}.PNG,{row.caption}" for row in ROWS]
        (folder / "train" / "metadata.csv").write_text("\n".join(["file_name,text", *lines]))
    dataset, recipe = ck.open_dataset(folder), FLIP if field == "label" else ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1")])
    ck.write_variant(dataset, ck.make_plan(recipe, dataset.index()), tmp_path / "tars")
    shards = sorted(map(str, (tmp_path / "tars").glob("*.tar")))
    found = list(wds.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert all({name for name in sample if not name.startswith("__")} == {"png", suffix} for sample in found)
    told = {tuple(sample["png"][0, 0].tolist()): sample[suffix] for sample in found}
    expected = {Image.open(io.BytesIO(row["image"])).getpixel((0, 0)): row[field] for row in dataset.with_recipe(recipe).rows()}
    assert told == expected
    assert len(found) == len(told) == len(ROWS)


@pytest.mark.parametrize("form", ["webdataset", "parquet", "arrow"])
@pytest.mark.parametrize("source", ["parquet", "arrow"])
def test_old_caption_in_another_column_is_warned_of(tmp_path: Path, source: str, form: str) -> None:
    captions = [f"a long caption of {n:02d}" for n in range(40)]
    columns = {"alt": captions, "all": [[text, "x"] for text in captions], "more": [{"tags": [text]} for text in captions]}
    for name, values in columns.items():
        table = pa.table({"key": [f"{n:02d}" for n in range(40)], "caption": captions, name: values})
        path = tmp_path / name
        path.mkdir()
        if source == "parquet":
            pq.write_table(table, path / "0.parquet", row_group_size=7)
        else:
            with pa.ipc.new_stream(path / "0.arrow", table.schema) as writer:
                writer.write_table(table, max_chunksize=7)
        dataset = ck.open_dataset(path)
        with pytest.warns(LeftoverWarning, match="20 edited rows still tell their old caption, in other columns"):
            ck.write_variant(
                dataset, ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.5")]), dataset.index()), tmp_path / f"{name}-out", form
            )


@pytest.mark.parametrize("form", ["webdataset", "parquet", "arrow"])
def test_table_without_images_gets_none(tmp_path: Path, form: str) -> None:
    (tmp_path / "texts").mkdir()
    pq.write_table(pa.table({"key": ["a", "b"], "caption": ["one", "two"], "n": [1, 2]}), tmp_path / "texts" / "0.parquet")
    dataset = ck.open_dataset(tmp_path / "texts")
    assert dataset.schema().names == ["key", "caption", "n"]
    ck.write_variant(dataset, ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")]), dataset.index()), tmp_path / "out", form)
    variant = ck.open_dataset(tmp_path / "out")
    assert {row["key"]: row["caption"] for row in variant.rows()} == {"a": "two", "b": "one"}
    assert "image" not in variant.schema().names
    pytest.importorskip("datasets")
    assert [row["caption"] for row in variant.to_datasets()] == ["two", "one"]
