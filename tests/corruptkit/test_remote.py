"""Sources on servers: the same rows and the same variant as of the same files here, few bytes, and one line for what goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import corruptkit as ck
from corruptkit import servers
from corruptkit.errors import DatasetError, IntegrityError, TransferWarning
from corruptkit.formats import webdataset
from corruptkit.remote import RemoteFile, RemotePath, expand_braces, source_path, stat_files
from corruptkit.servers import read_remote
from tests.corruptkit.saying import Run
from tests.corruptkit.served import KINDS, SECRETS, Serve, put_objects, serve_s3, serve_sources, write_fetched, write_tables
from tests.corruptkit.shards import make_rows, write_shards
from tests.hub import SIGNATURE, serve_hub
from tests.web import serve_folder

SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1")])
REPOSITORY = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore::corruptkit.errors.TransferWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # fsspec's sessions live as long as their loop
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # as they are collected
]


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, planted credentials, and no memory of other servers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("HF_TOKEN", SECRETS[2])
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(servers, "_PAUSE", 0.01)
    servers.forget_answers()
    yield
    servers.forget_answers()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    with serve_sources(monkeypatch) as served:
        yield served


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


@pytest.mark.parametrize("kind", ["http", "hf", "s3"])
def test_tars_are_indexed_from_their_side_cars(tmp_path: Path, serve: Serve, kind: str) -> None:
    rows = make_rows(60)
    rows[5] = rows[5]._replace(caption="")
    write_fetched(tmp_path / "src", rows, 300)
    here, there = ck.open_dataset(tmp_path / "src"), ck.open_dataset(serve(kind, tmp_path / "src"))
    assert there.index().meta.fingerprint == here.index().meta.fingerprint
    assert there.index().numbers("offset").max() == -1
    assert list(there.rows()) == list(here.rows())
    assert [there.row(number) for number in (0, 31, 59)] == [here.row(number) for number in (0, 31, 59)]
    assert there.schema() == here.schema()
    plans = [ck.make_plan(SWAP, dataset.index()) for dataset in (here, there)]
    assert plans[0].variant_id == plans[1].variant_id
    made = [ck.write_variant(d, plan, tmp_path / f"out{d is here}", "webdataset") for d, plan in zip((here, there), plans, strict=True)]
    assert [shard.sha256 for shard in made[0].shards] == [shard.sha256 for shard in made[1].shards]


def test_side_cars_cost_few_bytes(tmp_path: Path) -> None:
    write_fetched(tmp_path / "src", make_rows(200), 60_000)
    size = sum(path.stat().st_size for path in (tmp_path / "src").iterdir())
    with serve_folder(tmp_path / "src") as web:
        dataset = ck.open_dataset(web.url + "/shard-{00000..00001}.tar")
        made = ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / "out")
        assert made.counts.rows == 200
        assert 0 < web.total < size * 0.01


def spoil_counts(tar: Path) -> None:
    tar.with_name(f"{tar.stem}_stats.json").write_text('{"successes": 7}', "utf-8")


def spoil_captions(tar: Path) -> None:
    table = pq.read_table(tar.with_suffix(".parquet"))
    other = pa.array(["another"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("caption"), "caption", other), tar.with_suffix(".parquet"))


def spoil_schema(tar: Path) -> None:
    pq.write_table(pq.read_table(tar.with_suffix(".parquet")).drop_columns("status"), tar.with_suffix(".parquet"))


def spoil_bytes(tar: Path) -> None:
    tar.with_suffix(".parquet").write_bytes(b"no Parquet")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_counts, "lists 10 samples, and shard-00000_stats.json counts 7"),
        (spoil_captions, "does not list the tar's first sample as it is"),
        (spoil_schema, "has no key, status and caption as text"),
        (spoil_bytes, "cannot be read"),
    ],
)
def test_side_car_that_proves_nothing_is_named(tmp_path: Path, serve: Serve, spoil: object, said: str) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    spoil(tmp_path / "src" / "shard-00000.tar")  # type: ignore[operator]
    there = ck.open_dataset(serve("http", tmp_path / "src"))
    with pytest.warns(TransferWarning, match=f"shard-00000.tar: read from end to end: shard-00000.parquet beside it {said}"):
        found = there.index().meta.fingerprint
    assert found == ck.open_dataset(tmp_path / "src").index().meta.fingerprint


def test_side_car_that_lies_is_found_when_edited_rows_are_read(tmp_path: Path, serve: Serve) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    path = tmp_path / "src" / "shard-00001.parquet"
    lines = pq.read_table(path).to_pylist()
    next(line for line in lines if line["key"] == "000000019")["caption"] = "what the tar does not hold"
    pq.write_table(pa.Table.from_pylist(lines), path)
    variant = ck.open_dataset(serve("http", tmp_path / "src")).with_recipe(ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")]))
    for read in (lambda: list(variant.rows()), lambda: list(variant.to_webdataset()), lambda: variant.row(19)):
        with pytest.raises(DatasetError, match=r"shard-00001.tar, 000000019: found the caption 'a photo of thing 19'"):
            read()


def test_side_car_of_a_sample_that_is_not_there(tmp_path: Path, serve: Serve) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    tar = tmp_path / "src" / "shard-00001.tar"
    write_fetched(tmp_path / "other", make_rows(19), 90)
    (tmp_path / "other" / "shard-00001.tar").replace(tar)
    dataset = ck.open_dataset(serve("http", tmp_path / "src"))
    assert len(dataset) == 20
    for read in (lambda: dataset.row(19), lambda: list(dataset.with_recipe(ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")])).rows())):
        with pytest.raises(DatasetError, match=r"shard-00001.tar, 000000019: found the sample is not there"):
            read()


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


def test_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DatasetError, match=r"s3://bucket/a.tar: no library for s3:// here; pip install 'corruptkit\[remote\]'"):
        ck.open_dataset("s3://bucket/a.tar")


def test_end_to_end_reading_is_announced(tmp_path: Path, serve: Serve) -> None:
    there = ck.open_dataset(serve("http", write_shards(tmp_path / "src", make_rows(20))))
    with pytest.warns(TransferWarning, match="2 tars of [0-9,]+ bytes in all have no side-car: they are read once"):
        there.index()


@pytest.mark.parametrize("layout", ["tars", "fetched", "parquet"])
def test_changed_source_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    monkeypatch.setattr(servers, "FRESH", 0.0)
    folder = tmp_path / "src"
    {"tars": write_shards, "fetched": lambda f, r: write_fetched(f, r, 90), "parquet": lambda f, r: write_tables(f, r, 90)}[layout](
        folder, make_rows(20)
    )
    with serve_folder(folder) as web:
        dataset = ck.open_dataset(web.url if layout != "parquet" else f"{web.url}/data")
        plan = ck.make_plan(SWAP, dataset.index())
        shard = min(folder.rglob("*0-of-00002.parquet" if layout == "parquet" else "*0.tar"))
        content = bytearray(shard.read_bytes())
        content[700] ^= 1  # the same size: the etag alone tells
        shard.write_bytes(content)
        with pytest.raises(DatasetError, match=rf"{shard.name}: its size or time has changed"):
            dataset.row(0)
        with pytest.raises(DatasetError, match=rf"{shard.name}: its size or time has changed"):
            ck.write_variant(dataset, plan, tmp_path / "out")


def test_overlay_of_another_source_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "src", make_rows(20))
    with serve_folder(folder) as web:
        dataset = ck.open_dataset(web.url)
        ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / "out")
        write_shards(folder, make_rows(20, captions=3))
        with pytest.raises(IntegrityError, match="fingerprint"):
            ck.open_dataset(tmp_path / "out")


def test_cut_connection_is_taken_up(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "src", [row._replace(image=row.key.encode() * 2000) for row in make_rows(20)])
    expected = list(ck.open_dataset(folder).rows())
    with serve_folder(folder) as web:
        dataset = ck.open_dataset(web.url)
        dataset.index()
        web.cuts = 3
        assert list(dataset.rows()) == expected
        assert web.cuts == 0
        web.cuts = 1000
        with pytest.raises(DatasetError, match=r"shard-00000.tar: .* at byte 0, 5 times, expected the whole range"):
            list(dataset.rows())


def test_server_without_ranges_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "src", make_rows(20))
    with serve_folder(folder) as web:
        path = source_path(f"{web.url}/shard-00000.tar")
        assert isinstance(path, RemotePath)
        web.ranges = False
        with pytest.raises(DatasetError, match="sends more than it was asked for, expected an answer to Range"):
            read_remote(path, 0, 100)


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


def test_bucket_that_is_empty_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        put_objects(endpoint, "empty", {})
        with pytest.raises(DatasetError, match="s3://empty: no shard or image"):
            ck.open_dataset("s3://empty")
        with pytest.raises(DatasetError, match="s3://other/x: no such file or folder"):
            ck.open_dataset("s3://other/x")


def test_answers_of_servers_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "src", make_rows(20))
    with serve_folder(folder) as web, serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(DatasetError, match=r"nowhere.tar: no such file or folder"):
            ck.open_dataset(f"{web.url}/nowhere.tar")
        web.denied.add("/shard-00000.tar")
        with pytest.raises(DatasetError, match=r"shard-00000.tar: access is refused \(403\)"):
            ck.open_dataset(f"{web.url}/shard-00000.tar")
        with pytest.raises(DatasetError, match="hf://datasets/org/none: no such file or folder"):
            ck.open_dataset("hf://datasets/org/none")
        hub.put_folder("org/gated", folder)
        hub.gated.add("org/gated")
        with pytest.raises(DatasetError, match=r"hf://datasets/org/gated.*: access is refused \(403\)"):
            ck.open_dataset("hf://datasets/org/gated")
    with pytest.raises(DatasetError, match="its host cannot be reached"):
        ck.open_dataset(f"{web.url}/shard-00000.tar")


def test_unreachable_s3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DatasetError, match=r"s3://bucket/x.*: its host cannot be reached"):
        ck.open_dataset("s3://bucket/x")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://user:planted-secret@example.org/a.tar", "a user, a query or a fragment"),
        ("https://example.org/a.tar?X-Amz-Signature=planted-secret", "a user, a query or a fragment"),
        ("s3://bucket/a.tar?token=planted-secret", "a user, a query or a fragment"),
        ("s3://bucket/../a.tar", "the URL of no folder or file"),
        ("s3://bucket//a.tar", "the URL of no folder or file"),
        ("s3://", "the URL of no folder or file"),
        ("zip://a.tar::s3://bucket/b.zip", "the URL of no folder or file"),
        ("nothing://bucket/a.tar", "nothing reads nothing://"),
        ("http://[bad/a.tar", "no URL"),
    ],
)
def test_url_that_is_refused(url: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        ck.open_dataset(url)
    assert "planted-secret" not in str(caught.value)
    assert "planted-secret" not in json.dumps([problem.as_json() for problem in caught.value.problems])


def test_variant_is_written_to_no_url(tmp_path: Path) -> None:
    dataset = ck.open_dataset(write_shards(tmp_path / "src", make_rows(20)))
    with pytest.raises(DatasetError, match="a URL, expected a path"):
        ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), "s3://bucket/out")


def test_manifest_names_no_other_scheme(tmp_path: Path) -> None:
    from corruptkit.manifest import checksum_line

    dataset = ck.open_dataset(write_shards(tmp_path / "src", make_rows(20)))
    ck.write_variant(dataset, ck.make_plan(SWAP, dataset.index()), tmp_path / "out", "overlay")
    path = tmp_path / "out" / ".corruptkit" / "manifest.json"
    content = path.read_bytes().replace(str(tmp_path / "src").encode(), b"ssh://example.org/src")
    path.write_bytes(content)
    path.with_name("manifest.sha256").write_bytes(checksum_line(content))
    with pytest.raises(DatasetError, match=r"ssh://example.org/src, .*the manifest's source"):
        ck.open_dataset(tmp_path / "out")
    assert len(ck.open_dataset(tmp_path / "out", source=tmp_path / "src")) == 20


def test_variant_lies_on_a_server_too(tmp_path: Path, serve: Serve) -> None:
    dataset = ck.open_dataset(serve("http", write_shards(tmp_path / "src", make_rows(20))))
    plan = ck.make_plan(SWAP, dataset.index())
    for format in ("overlay", "webdataset"):
        ck.write_variant(dataset, plan, tmp_path / format, format)  # type: ignore[arg-type]
        served = ck.open_dataset(serve("http", tmp_path / format))
        assert served.manifest is not None
        assert list(served.rows()) == list(ck.open_dataset(tmp_path / format).rows())


def test_braces() -> None:
    assert expand_braces("a-{08..11}.{tar,zip}") == [f"a-{n}.{e}" for n in ("08", "09", "10", "11") for e in ("tar", "zip")]
    for bad in ("{1..0}", "{a..b}", "{0..9999999}", "{0..99999}{0..99999}"):
        with pytest.raises(DatasetError, match="braces"):
            expand_braces(bad)


def test_arrow_and_folders_of_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with serve_folder(tmp_path) as web, pytest.raises(DatasetError, match="a folder of images on a server, expected tars or Parquet"):
        ck.open_dataset(f"{web.url}/images")


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


def test_no_secret_is_told(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fetched(tmp_path / "src", make_rows(20), 90)
    with serve_hub() as hub, serve_s3() as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        hub.token = SECRETS[2]
        hub.put_folder("org/gated", tmp_path / "src")
        hub.gated.add("org/gated")
        put_objects(endpoint, "bucket", {path.name: path.read_bytes() for path in (tmp_path / "src").iterdir()})
        said = []
        for number, url in enumerate(["hf://datasets/org/gated", "s3://bucket", "hf://datasets/org/none", "s3://none"]):
            words = ["make", "--source", url, "--swap", "0.1", "--workers", "1", "--out", f"out{number}"]
            command = [sys.executable, "-m", "corruptkit", *words]
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=here)
            assert done.returncode == (0 if number < 2 else 2), done.stderr
            said.append(done.stdout + done.stderr)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.name.startswith("index-") for path in files)
        assert any(path.name == "manifest.json" for path in files)
        for secret in (*SECRETS, SIGNATURE):
            assert not any(secret in text for text in said)
            assert not [path for path in files if secret.encode() in path.read_bytes()]
