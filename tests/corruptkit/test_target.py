"""What a run that fails leaves of its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from corruptkit.errors import DatasetError, Problem
from corruptkit.target import PARTIAL, drop_failed
from tests.corruptkit.shards import HIDDEN

BROKEN = DatasetError(Problem("a", "b"))


def write_some(target: Path, names: tuple[str, ...], *, made: bool, error: BaseException) -> None:
    with drop_failed(target, made=made):
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).touch()
        raise error


def fail_run(target: Path, *names: str, made: bool = True, error: BaseException = BROKEN) -> list[str]:
    """A run that writes some files and fails: what is left."""
    with pytest.raises(type(error)):
        write_some(target, names, made=made, error=error)
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) if target.exists() else ["gone"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "v").mkdir()
    return tmp_path / "v"


BEGUN = ("a.tar", f"{HIDDEN}/{PARTIAL}/target.json")
DONE = f"{HIDDEN}/{PARTIAL}/a.tar.json"


@pytest.mark.parametrize("error", [BROKEN, ValueError("a mistake of ours"), OSError(5, "a disk that fails")])
def test_nothing_finished_leaves_nothing(target: Path, error: Exception) -> None:
    assert fail_run(target, *BEGUN, made=False, error=error) == []
    assert fail_run(target, *BEGUN, error=error) == ["gone"]


def test_what_is_finished_stays(target: Path) -> None:
    assert fail_run(target, *BEGUN, DONE) == sorted([*BEGUN, DONE])


def test_what_was_there_stays(target: Path) -> None:
    (target / "photo.jpg").touch()
    assert fail_run(target, *BEGUN) == sorted([*BEGUN, "photo.jpg"])


def test_interrupted_run_is_left_to_be_resumed(target: Path) -> None:
    assert fail_run(target, *BEGUN, error=KeyboardInterrupt()) == sorted(BEGUN)
