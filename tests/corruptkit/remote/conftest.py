"""A cache of its own for each test, planted credentials, and folders under URLs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit import servers
from tests.corruptkit.remote.served import SECRETS, Serve, serve_sources

SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.1")])
REPOSITORY = Path(__file__).parents[3]


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
