"""Files that appear whole or not at all: atomic writes, a folder's lock, and byte ranges moved between files."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from corruptkit.errors import ConflictError, DatasetError, Problem

_PIECE = 1 << 22
Span = tuple[int, int, bytes]  # bytes [start, stop) of a file, and what stands there instead


def local_path(path: str | Path) -> Path:
    """A path, and no URL: `s3://bucket` would become a folder of that name."""
    if "://" in str(path):
        raise DatasetError(Problem(str(path), "a URL", "a path: this version reads and writes local files only", "copy it here first"))
    return Path(path)


@contextmanager
def open_atomic(path: Path, partial: Path) -> Iterator[BinaryIO]:
    """A file that gets its name only when it is whole and on the disk."""
    temporary = partial / f"{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes, partial: Path) -> None:
    """Write a small file so."""
    with open_atomic(path, partial) as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs; the system lets go when this process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(Problem(str(folder), "another run is writing here", do="wait for it or choose another --out")) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explain_disk(target: Path) -> Iterator[None]:
    """One clear line for a disk that has no room; what is finished stays."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConflictError(
            Problem(str(error.filename or target), "something else lies there", "a folder or nothing", "choose another --out")
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            do = "free some space and start the same command again: it resumes"
            raise DatasetError(Problem(str(target), "no space left on the device", do=do)) from None
        place = Path(error.filename) if isinstance(error.filename, str) else target
        verb = "read" if isinstance(error, FileNotFoundError) and target not in place.parents else "written"
        raise DatasetError(Problem(str(place), f"cannot be {verb}: {error.strerror}", do="mend it and resume")) from error


def copy_patched(source: BinaryIO, out: BinaryIO, spans: Iterable[Span], digest: Any) -> None:
    """Write a file with some of its bytes replaced (spans ascend) and digest what is written."""
    place = 0
    for start, stop, content in spans:
        _copy_range(source, out, place, start, digest)
        out.write(content)
        digest.update(content)
        place = stop
    _copy_range(source, out, place, os.fstat(source.fileno()).st_size, digest)


def _copy_range(source: BinaryIO, out: BinaryIO, start: int, stop: int, digest: Any) -> None:
    """Append bytes [start, stop), moved by the system where it can."""
    out.flush()
    while start < stop:
        piece = os.pread(source.fileno(), min(_PIECE, stop - start), start)
        if not piece:
            raise DatasetError(
                Problem(source.name, f"it ends at byte {start}", "the shard as it was indexed", "the source has changed: plan again")
            )
        digest.update(piece)
        _send_piece(source.fileno(), out.fileno(), start, piece)
        start += len(piece)


def _send_piece(source: int, out: int, start: int, piece: bytes) -> None:
    sent = 0
    try:
        while moved := os.copy_file_range(source, out, len(piece) - sent, start + sent):
            sent += moved
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    while sent < len(piece):  # some file systems refuse, some move nothing without a word
        sent += os.write(out, memoryview(piece)[sent:])
