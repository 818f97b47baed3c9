"""Sources on servers give the rows and the variant of the same files here, and cost few bytes."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit.formats import webdataset
from corruptkit.remote import RemoteFile, source_path, stat_files
from tests.corruptkit.remote.served import KINDS, Serve, put_objects, serve_s3, write_tables
from tests.corruptkit.saying import Run
from tests.corruptkit.shards import make_rows, write_shards
from tests.hub import serve_hub
from tests.web import serve_folder

SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1")])
REPOSITORY = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.filterwarnings("ignore::corruptkit.errors.TransferWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # fsspec's sessions live as long as their loop
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # as they are collected
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["tars", "parquet"])
def test_rows_and_variant_are_those_of_the_local_source(tmp_path: Path, serve: Serve, kind: str, layout: str) -> None:
    folder = tmp_path / "src"
    if layout == "tars":
        write_shards(folder, make_rows(40))
    else:
        write_tables(folder, make_rows(40), 300)
    here, there = ck.open_dataset(folder), ck.open_dataset(serve(kind, folder))
    rows = list(here.rows())
    assert list(there.rows()) == rows
    assert [there.row(number) for number in (0, 39, 7, -1)] == [rows[0], rows[39], rows[7], rows[39]]
    assert [batch.to_pylist() for batch in there.batches(range(40))] == [batch.to_pylist() for batch in here.batches(range(40))]
    plans = [ck.make_plan(SWAP, dataset.index()) for dataset in (here, there)]
    assert plans[0].identity == plans[1].identity
    made = ck.write_variant(there, plans[1], tmp_path / "out")
    assert made.circumstance.format == (made.circumstance.format if kind == "file" else "overlay")
    assert ck.write_variant(here, plans[0], tmp_path / "local", "overlay").variant_id == made.variant_id
    variant, local = ck.open_dataset(tmp_path / "out"), ck.open_dataset(tmp_path / "local")
    assert [dict(row) for row in variant.rows()] == [dict(row) for row in local.rows()]
    names = [sample["__key__"] for sample in variant.to_webdataset()]
    assert names == [sample["__key__"] for sample in local.to_webdataset()]
    assert variant.to_torch().__getitems__([3, 5]) == local.to_torch().__getitems__([3, 5])
    assert ck.verify(tmp_path / "out").problems == ()
    assert ck.verify(tmp_path / "out", source=folder).problems == ()


def test_pickled_dataset_reads_on(tmp_path: Path, serve: Serve) -> None:
    dataset = ck.open_dataset(serve("http", write_shards(tmp_path / "src", make_rows(20))))
    dataset.index(workers=2)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own
    assert copy.shards == dataset.shards
    assert list(copy.rows()) == list(dataset.rows())


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_variant_is_written_of_a_remote_source(tmp_path: Path, serve: Serve, format: str) -> None:
    folder = write_shards(tmp_path / "src", make_rows(40))
    here, there = ck.open_dataset(folder), ck.open_dataset(serve("http", folder))
    made = [
        ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / name, format)  # type: ignore[arg-type]
        for name, dataset in (("a", here), ("b", there))
    ]
    assert made[0].shards == made[1].shards
    assert ck.verify(tmp_path / "b").problems == ()


def test_parquet_on_the_hub_costs_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tables(tmp_path / "src", make_rows(400), 40_000)
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.put_folder("org/name", tmp_path / "src")
        size = sum(map(len, hub.repositories["org/name"].values()))
        dataset = ck.open_dataset("hf://datasets/org/name")
        made = ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / "out")
        assert made.circumstance.format == "overlay"
        assert made.source.source_url == "hf://datasets/org/name"
        assert 0 < hub.sent < size * 0.02
        before = hub.sent
        dataset.row(3)
        assert hub.sent - before > 40_000


def test_shards_are_streamed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "STREAM", 100_000)
    rows = [row._replace(image=row.key.encode() * 5000) for row in make_rows(40)]
    with serve_folder(write_shards(tmp_path / "src", rows, shards=1)) as web:
        dataset = ck.open_dataset(web.url)
        assert len(list(dataset.rows())) == 40
        ranges = [line.rpartition("=")[2] for line in web.asked if "bytes=" in line]
        sizes = [int(last) - int(first) + 1 for first, last in (text.split("-") for text in ranges)]
        assert len(sizes) > 30
        assert max(sizes) == 100_000
        before = web.total
        dataset.row(20)
        assert web.total - before < 50_000


def test_remote_file_reads_any_place(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "a.tar").write_bytes(content)
    with serve_folder(tmp_path) as web:
        file = RemoteFile(source_path(f"{web.url}/a.tar"))  # type: ignore[arg-type]
        assert (file.size, file.pread(5, 300), file.pread(len(content) - 3, 99)) == (len(content), content[5:305], content[-3:])
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert (file.read(4), file.read(), file.read()) == (content[-10:-6], content[-6:], b"")


def test_listing_of_many_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "src", make_rows(1), shards=1)
    tar = (folder / "shard-00000.tar").read_bytes()
    empty = bytes(10240)
    with serve_s3() as endpoint, serve_hub() as hub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        names = [f"many/{number:05d}.tar" for number in range(1100)]
        put_objects(endpoint, "bucket", dict.fromkeys(names, empty) | {"many/00700.tar": tar})
        hub.repositories["org/many"] = {name.removeprefix("many/"): empty for name in names} | {"00700.tar": tar}
        hub.page = 100
        for url in ("s3://bucket/many", "hf://datasets/org/many"):
            dataset = ck.open_dataset(url)
            assert [shard.name for shard in dataset.shards] == [f"{number:05d}.tar" for number in range(1100)]
            assert [size for size, _ in stat_files(list(dataset.shards))].count(10240) >= 1099  # type: ignore[arg-type]


def test_variant_lies_on_a_server_too(tmp_path: Path, serve: Serve) -> None:
    dataset = ck.open_dataset(serve("http", write_shards(tmp_path / "src", make_rows(20))))
    plan = ck.make_plan(SWAP, dataset.index())
    for format in ("overlay", "webdataset"):
        ck.write_variant(dataset, plan, tmp_path / format, format)  # type: ignore[arg-type]
        served = ck.open_dataset(serve("http", tmp_path / format))
        assert served.manifest is not None
        assert list(served.rows()) == list(ck.open_dataset(tmp_path / format).rows())


def mirror(folder: Path) -> None:
    """The layout of pixparse/cc3m-wds, small."""
    rows = [row._replace(label=None) for row in make_rows(40)]
    write_shards(folder, rows, members=("jpg", "json", "txt"), name="cc3m-train-{:04d}.tar")
    write_shards(folder, make_rows(5, classes=None), shards=1, members=("jpg", "json", "txt"), name="cc3m-validation-{:04d}.tar")
    names = {"train": [f"cc3m-train-{number:04d}.tar" for number in range(2)], "validation": ["cc3m-validation-0000.tar"]}
    splits = {name: {"name": name, "filenames": files, "shard_lengths": [], "num_samples": 0} for name, files in names.items()}
    (folder / "_info.json").write_text(json.dumps({"splits": splits}), "utf-8")


def test_published_mirror_by_the_command_line(tmp_path: Path, here: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror(tmp_path / "cc3m")
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.put_folder("pixparse/cc3m-wds", tmp_path / "cc3m")
        said = run("make", "--source", "hf://datasets/pixparse/cc3m-wds", "--swap", "0.05", "--json")
        assert said.status == 0, said.err
        made = json.loads(said.out)["variants"][0]
        assert (made["path"], made["format"]) == ("cc3m-wds-swap-0.05-s0.overlay", "overlay")
        assert "2 tars of" in said.err
        assert made["counts"]["rows"] == 40
        local = run("make", "--source", tmp_path / "cc3m", "--swap", "0.05", "--out", "local", "--json")
        assert json.loads(local.out)["variants"][0]["variant_id"] == made["variant_id"]
        assert run("verify", made["path"], "--source", "hf://datasets/pixparse/cc3m-wds").status == 0
        assert run("verify", made["path"]).status == 0
        assert run("index", "hf://datasets/pixparse/cc3m-wds").status == 0
        assert len(list(ck.open_dataset(here / made["path"]).rows())) == 40
