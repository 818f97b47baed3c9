"""Files that appear whole or not at all, a folder's lock, disks that fail, and byte ranges moved between files."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corruptkit import files
from corruptkit.errors import ConflictError, CorruptkitError, DatasetError
from corruptkit.files import Span, copy_patched, explain_disk, lock_folder, open_atomic, write_atomic
from tests.corruptkit.damage import draw_bytes, draw_number, small_disk


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    (tmp_path / "partial").mkdir()
    return tmp_path / "partial"


# Atomic files


def test_file_has_its_name_only_when_it_is_whole(tmp_path: Path, partial: Path) -> None:
    path = tmp_path / "file"
    with open_atomic(path, partial) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        assert list_names(partial) == [f"file.{os.getpid()}.tmp"]
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    assert list_names(partial) == []


def fail_half_way(path: Path, partial: Path, error: BaseException) -> None:
    with open_atomic(path, partial) as file:
        file.write(b"half")
        raise error


def test_file_that_fails_leaves_what_was_there(tmp_path: Path, partial: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    for error in (ValueError(), KeyboardInterrupt(), OSError()):
        with pytest.raises(type(error)):
            fail_half_way(path, partial, error)
    assert path.read_bytes() == b"before"
    assert list_names(partial) == []
    write_atomic(path, b"after", partial)
    assert path.read_bytes() == b"after"


def test_file_reaches_the_disk_before_its_name_and_its_folder_after(tmp_path: Path, partial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the content, rename, fsync of the folder: in any other order, a power cut leaves an empty file under a final name."""
    calls: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def note_replace(old: Path, new: Path) -> None:
        assert Path(old).read_bytes() == b"content", "everything was flushed"
        calls.append(("replace", Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomic(tmp_path / "file", b"content", partial)
    assert calls == [("fsync", f"file.{os.getpid()}.tmp"), ("replace", "file"), ("fsync", tmp_path.name)]


@pytest.mark.parametrize("name", ["é 日本", "with space", "%s{}", "-x", "a" * 200])
def test_names_are_kept(name: str, tmp_path: Path, partial: Path) -> None:
    write_atomic(tmp_path / name, b"x", partial)
    assert list_names(tmp_path) == sorted([name, "partial"])


# The lock


def test_lock_is_held_and_let_go(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        with pytest.raises(ConflictError, match="another run is writing here; wait for it or choose another --out"), lock_folder(tmp_path):
            raise AssertionError("two hold it")
        with lock_folder(tmp_path.parent):
            pass
    with pytest.raises(ValueError, match="inside"), lock_folder(tmp_path):
        raise ValueError("inside")
    with lock_folder(tmp_path):
        pass
    assert list_names(tmp_path) == []


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from corruptkit.files import lock_folder\n"
    script += "with lock_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConflictError), lock_folder(tmp_path):
            raise AssertionError("two hold it")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock_folder(tmp_path):
            pass


# Disks that fail


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            OSError(errno.ENOSPC, "x"),
            DatasetError,
            "out: no space left on the device; free some space and start the same command again: it resumes",
        ),
        (
            OSError(errno.EDQUOT, "x"),
            DatasetError,
            "out: no space left on the device; free some space and start the same command again: it resumes",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            DatasetError,
            "/a/b: cannot be written: Permission denied; mend it and resume",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/a"),
            DatasetError,
            "/a: cannot be written: Read-only file system; mend it and resume",
        ),
        (OSError(errno.EIO, "Input/output error"), DatasetError, "out: cannot be written: Input/output error; mend it and resume"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/a/file"), ConflictError, "/a/file: "),
        (FileExistsError(errno.EEXIST, "x", "/a/file"), ConflictError, "/a/file: "),
    ],
)
def test_disk_error_becomes_one_line(error: OSError, kind: type[CorruptkitError], said: str) -> None:
    with pytest.raises(kind) as caught, explain_disk(Path("out")):
        raise error
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_other_errors_are_left_alone() -> None:
    for error in (ValueError("x"), DatasetError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, explain_disk(Path("out")):
            raise error
        assert caught.value is error


# Copies with spans replaced


def patch_bytes(content: bytes, spans: list[Span]) -> bytes:
    parts, place = [], 0
    for start, stop, new in spans:
        parts += [content[place:start], new]
        place = stop
    return b"".join([*parts, content[place:]])


def copy_file(folder: Path, content: bytes, spans: list[Span]) -> tuple[bytes, str]:
    """What a copy holds, and its digest as it was told."""
    (folder / "in").write_bytes(content)
    digest = hashlib.sha256()
    with (folder / "in").open("rb", buffering=0) as source, (folder / "out").open("wb") as out:
        copy_patched(source, out, spans, digest)
    return (folder / "out").read_bytes(), digest.hexdigest()


def draw_spans(text: str, size: int) -> list[Span]:
    """Ascending spans with content that is shorter, longer or none; some touch each other, some are empty."""
    cuts = sorted(draw_number(f"{text} {i}", size + 1) for i in range(2 * draw_number(text, 6)))
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    return [(start, stop, draw_bytes(f"{text} {start}", draw_number(f"{text} {stop}", 2000))) for start, stop in pairs]


def read_slowly(source: int, rooms: list[memoryview], offset: int) -> int:
    """A system that reads few bytes at a time."""
    return READ(source, [rooms[0][:777]], offset)


def write_slowly(out: int, pieces: list[memoryview]) -> int:
    """A system that writes few bytes at a time."""
    return WRITE(out, [pieces[0][:333]])


READ, WRITE = os.preadv, os.writev


@pytest.mark.parametrize("system", [{}, {"preadv": read_slowly}, {"writev": write_slowly}])
@pytest.mark.parametrize("piece", [1, 512, 4096, 1 << 20])
def test_copy_has_the_spans_replaced(
    piece: int, system: dict[str, Callable[..., int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_PIECE", piece)
    for name, call in system.items():
        monkeypatch.setattr(os, name, call)
    for number in range(60 if piece > 1 else 3):
        text = f"case {number}"
        content = draw_bytes(text, draw_number(f"size {number}", 20_000 if piece > 1 else 300))
        spans = draw_spans(text, len(content))
        expected = patch_bytes(content, spans)
        assert copy_file(tmp_path, content, spans) == (expected, hashlib.sha256(expected).hexdigest())


def test_copy_needs_no_digest_and_says_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"content")
    with (tmp_path / "in").open("rb", buffering=0) as source, (tmp_path / "out").open("wb") as out:
        copy_patched(source, out, [(1, 3, b"")])
        assert out.tell() == 5
    assert (tmp_path / "out").read_bytes() == b"ctent"


def test_error_while_digesting_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def update(self, _: memoryview) -> None:
            raise MemoryError

    monkeypatch.setattr(files, "_PIECE", 4)
    (tmp_path / "in").write_bytes(bytes(99))
    for length in (1, 99):
        with (tmp_path / "in").open("rb", buffering=0) as source, (tmp_path / "out").open("wb") as out, pytest.raises(MemoryError):
            copy_patched(source, out, [(length, 99, b"")], Broken())


def test_copy_between_disks(tmp_path: Path) -> None:
    content = draw_bytes("content", 9_000_000)
    expected = content[:5] + b"new" + content[6:]
    (tmp_path / "in").write_bytes(content)
    digest = hashlib.sha256()
    with small_disk(tmp_path / "disk", "16m") as disk:
        if disk is None or disk.prefix:
            pytest.skip("mount is not allowed here")
        with (tmp_path / "in").open("rb", buffering=0) as source, (disk.path / "out").open("wb") as out:
            copy_patched(source, out, [(5, 6, b"new")], digest)
        assert (disk.path / "out").read_bytes() == expected
    assert digest.hexdigest() == hashlib.sha256(expected).hexdigest()


def test_errors_of_the_disk_are_not_worked_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT):

        def fail(*_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        for call in ("preadv", "writev", "posix_fadvise"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, fail)
                with pytest.raises(OSError, match=os.strerror(number)):
                    copy_file(tmp_path, b"content", [])


def test_span_beyond_the_end_says_that_the_source_changed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        copy_file(tmp_path, b"content", [(9, 9, b"new")])
    assert (
        str(caught.value)
        == f"{tmp_path / 'in'}: it ends at byte 7, expected the shard as it was indexed; the source has changed: plan again"
    )


def test_source_that_is_cut_while_it_is_copied_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reads nothing where nothing is left, and calls that no error."""
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(DatasetError, match="it ends at byte 0, expected the shard as it was indexed"):
        copy_file(tmp_path, b"content", [])
