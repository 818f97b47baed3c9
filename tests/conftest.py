"""What tests of several folders share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from corruptkit.fetching import fetch


@pytest.fixture(scope="session")
def openmoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real thing, fetched once for all workers: whoever comes second waits for the lock and finds it complete. Not to be changed."""
    base = tmp_path_factory.getbasetemp()
    data = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data"
    data.mkdir(exist_ok=True)
    with (data / "openmoji.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return fetch("openmoji", data / "openmoji")
