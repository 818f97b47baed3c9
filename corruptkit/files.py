"""Files that appear whole or not at all: atomic writes, a folder's lock, and byte ranges moved between files."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from corruptkit.errors import ConflictError, DatasetError, Problem

_PIECE = 1 << 22
_DIGESTED = 1 << 18  # bytes that are digested while the processor's cache still holds them
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


def copy_patched(source: BinaryIO, out: BinaryIO, spans: Iterable[Span], digest: Any = None) -> None:
    """Write a file with some of its bytes replaced (spans ascend); `out`, a new file with a name, is digested while it grows."""
    with _digest_along(out, digest) as tell:
        place = 0
        for start, stop, content in spans:
            _copy_range(source, out, place, start, tell)
            out.write(content)
            place = stop
        _copy_range(source, out, place, os.fstat(source.fileno()).st_size, tell)


def _copy_range(source: BinaryIO, out: BinaryIO, start: int, stop: int, tell: Callable[[], object]) -> None:
    """Append bytes [start, stop), moved by the system where it can, and tell after each piece."""
    out.flush()
    while start < stop:
        moved = _move_piece(source.fileno(), out.fileno(), start, min(_PIECE, stop - start))
        if not moved:
            raise DatasetError(
                Problem(source.name, f"it ends at byte {start}", "the shard as it was indexed", "the source has changed: plan again")
            )
        start += moved
        tell()


def _move_piece(source: int, out: int, start: int, length: int) -> int:
    """Append some of the bytes from `start`, and say how many: 0 only where the source has ended."""
    try:
        if moved := os.copy_file_range(source, out, length, start):
            return moved
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    piece = os.pread(source, length, start)  # some file systems refuse, some move nothing without a word
    sent = 0
    while sent < len(piece):
        sent += os.write(out, memoryview(piece)[sent:])
    return sent


@contextmanager
def _digest_along(out: BinaryIO, digest: Any) -> Iterator[Callable[[], object]]:
    """Digest a file in a thread of its own while it is written; what is yielded tells the thread that there is more to read.

    Reading back what has just been written costs little (it is in memory), and the digest is of the file as it lies there.
    """
    if digest is None:
        yield lambda: None
        return
    more: SimpleQueue[bool] = SimpleQueue()
    with Path(out.name).open("rb", buffering=0) as written, ThreadPoolExecutor(1) as pool:
        digesting = pool.submit(_digest_growing, written, digest, more)
        try:
            yield lambda: more.put(True)
            out.flush()
        finally:
            more.put(False)
        digesting.result()


def _digest_growing(written: FileIO, digest: Any, more: SimpleQueue[bool]) -> None:
    """Digest up to the end of the file each time there is more, and once more after the last."""
    piece = memoryview(bytearray(_DIGESTED))
    going = True
    while going:
        going = more.get()
        while length := written.readinto(piece):
            digest.update(piece[:length])
