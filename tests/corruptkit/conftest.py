"""A working folder, and commands run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from corruptkit import commands
from corruptkit.cli import main
from corruptkit.fetching import folder as fetched_folder
from corruptkit.fetching import openmoji as fetcher
from tests.corruptkit.saying import Run, Said
from tests.corruptkit.shards import make_rows, write_shards


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, with one worker unless it says otherwise."""
    monkeypatch.setattr(commands, "_workers", lambda args: args.workers or 1)

    def run_words(*words: object) -> Said:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Said(status, *capsys.readouterr())

    return run_words


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the source `src`: forty rows of ten classes in two shards."""
    for name in ("CORRUPTKIT_DATA", "CORRUPTKIT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_shards(Path("src"), make_rows(40))
    return tmp_path / "work"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMoji is forty emoji in four shards, so that fetching takes no time."""
    choose = fetcher.choose_emoji
    monkeypatch.setattr(fetcher, "choose_emoji", lambda packages: (choose(packages)[0][::99], {}))
    monkeypatch.setattr(fetched_folder, "SHARD_ROWS", 10)
