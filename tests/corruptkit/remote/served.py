"""A folder under a URL of each kind that a source may have: a web server, an S3 server (moto's), the Hub's stand-in, file://."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corruptkit.shards import Row, write_shards
from tests.hub import serve_hub
from tests.web import serve_folder

KINDS = ("file", "http", "s3", "hf")
SECRETS = ("AKIA_PLANTED_KEY", "planted-secret-of-aws", "hf_planted_token")
Serve = Callable[[str, Path], str]


@contextmanager
def serve_s3() -> Iterator[str]:
    """The address of an S3 server without buckets."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        urlopen(Request(f"{url}/moto-api/reset", method="POST")).close()  # noqa: S310 - ours; all servers of a process share their buckets
        yield url
    finally:
        server.stop()


def put_objects(endpoint: str, bucket: str, contents: dict[str, bytes]) -> None:
    """Make a bucket that holds these objects."""
    import s3fs

    system = s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False)
    if not system.exists(bucket):
        system.mkdir(bucket)
    if contents:
        system.pipe({f"{bucket}/{name}": content for name, content in contents.items()})


def folder_contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextmanager
def serve_sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Puts a folder under a URL of a kind; the servers run while the block does."""
    with ExitStack() as stack:

        def serve(kind: str, folder: Path) -> str:
            if kind == "file":
                return folder.absolute().as_uri()
            if kind == "http":
                return f"{stack.enter_context(serve_folder(folder)).url}"
            if kind == "s3":
                endpoint = stack.enter_context(serve_s3())
                monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
                put_objects(endpoint, "bucket", {f"some/{name}": content for name, content in folder_contents(folder).items()})
                return "s3://bucket/some"
            hub = stack.enter_context(serve_hub())
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            hub.put_folder("org/name", folder)
            return "hf://datasets/org/name"

        yield serve


def write_tables(folder: Path, rows: list[Row], size: int, shards: int = 2) -> None:
    """Parquet as the Hub holds it: images of `size` bytes uncompressed, in row groups of a hundred."""
    (folder / "data").mkdir(parents=True)
    step = -(-len(rows) // shards)
    for number in range(shards):
        part = rows[number * step : (number + 1) * step]
        images = [{"bytes": bytes([row.label or 0]) * size, "path": f"{row.key}.jpg"} for row in part]
        table = pa.table({"image": images, "label": [row.label for row in part], "caption": [row.caption for row in part]})
        path = folder / "data" / f"train-{number:05d}-of-{shards:05d}.parquet"
        pq.write_table(table, path, row_group_size=100, compression="none", use_dictionary=["label"])


def write_fetched(folder: Path, rows: list[Row], size: int, shards: int = 2, failed: int = 3) -> None:
    """Tars as img2dataset writes them, each with its Parquet, in which failed downloads stand between the others, and its counts."""
    named = [row._replace(label=None, image=b"\xff\xd8\xff" + row.key.encode() * (size // 9)) for row in rows]
    write_shards(folder, named, shards=shards, members=("jpg", "json", "txt"))
    step = -(-len(named) // shards)
    for number, tar in enumerate(sorted(folder.glob("*.tar"))):
        part = named[number * step : (number + 1) * step]
        lines = [{"key": row.key, "status": "success", "caption": row.caption or None, "url": "", "error_message": None} for row in part]
        for place in range(failed):
            lost = {
                "key": f"{number}lost{place}",
                "status": "failed_to_download",
                "caption": "never seen",
                "url": "",
                "error_message": "404",
            }
            lines.insert(place * 7, lost)
        pq.write_table(pa.Table.from_pylist(lines), tar.with_suffix(".parquet"))
        counts = f'{{"count": {len(lines)}, "successes": {len(part)}}}'
        tar.with_name(f"{tar.stem}_stats.json").write_text(counts, "utf-8")
