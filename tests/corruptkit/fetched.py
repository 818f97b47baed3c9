"""What tests of fetchers share: archives downloaded once for all workers, and fetched folders read back."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from corruptkit.errors import DatasetError
from corruptkit.fetching.archives import Archive, check_tools, obtain_archive


class Row(NamedTuple):
    """A sample as it lies in a shard: the names of its members, and what they hold by suffix."""

    key: str
    suffixes: list[str]
    members: dict[str, bytes]

    @property
    def caption(self) -> str:
        return self.members["txt"].decode()

    @property
    def label(self) -> int:
        return int(self.members["cls"])

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.members["json"])


def shared_folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all workers of one run share."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def download_archives(factory: pytest.TempPathFactory, archives: Sequence[Archive]) -> Path:
    """A folder with the archives, really downloaded; the test is skipped, with the tool's own words, where that cannot be done."""
    store = shared_folder(factory, "archives")
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            check_tools("tests", archives, None)
            for archive in archives:
                obtain_archive("tests", archive, store, None)
        except DatasetError as error:
            pytest.skip(f"no archive to fetch from: {error}")
    return store


def read_rows(folder: Path, pattern: str = "*.tar") -> list[Row]:
    rows: dict[str, Row] = {}
    for shard in sorted(folder.glob(pattern)):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, suffix = member.name.rpartition(".")
                row = rows.setdefault(key, Row(key, [], {}))
                row.suffixes.append(suffix)
                row.members[suffix] = tar.extractfile(member).read()
    return list(rows.values())


def read_record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ".corruptkit" / "fetched.json").read_text("utf-8"))


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_digest(folder: Path) -> str:
    """One digest over those of all shards."""
    lines = "".join(f"{shard['name']} {shard['sha256']}\n" for shard in read_record(folder)["shards"])
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def conditions_digest(rows: Sequence[Row]) -> str:
    lines = "".join(f"{row.key}\t{row.members.get('txt', b'').decode()}\t{row.label}\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
