"""What goes wrong with servers is one line by name; secrets are told nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit import servers
from corruptkit.errors import DatasetError, IntegrityError
from corruptkit.remote import RemotePath, expand_braces, source_path
from corruptkit.servers import read_remote
from tests.corruptkit.remote.served import SECRETS, put_objects, serve_s3, write_fetched, write_tables
from tests.corruptkit.shards import make_rows, write_shards
from tests.hub import SIGNATURE, serve_hub
from tests.web import serve_folder

SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1")])
REPOSITORY = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.filterwarnings("ignore::corruptkit.errors.TransferWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # fsspec's sessions live as long as their loop
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # as they are collected
]


def test_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DatasetError, match=r"s3://bucket/a.tar: no library for s3:// here; pip install 'corruptkit\[remote\]'"):
        ck.open_dataset("s3://bucket/a.tar")


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
