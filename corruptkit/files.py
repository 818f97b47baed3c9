"""Files that appear whole or not at all: atomic writes, a folder's lock, and byte ranges moved between files."""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, BinaryIO

from corruptkit.errors import ConflictError, DatasetError, Problem
from corruptkit.remote import RemoteFile

# Pieces that a processor's cache holds: one is written while the one before it is digested.
_PIECE, _BUFFERS = 1 << 20, 4
Span = tuple[int, int, bytes]  # bytes [start, stop) of a file, and what stands there instead


def local_path(path: str | Path) -> Path:
    """A path, and no URL: `s3://bucket` would become a folder of that name."""
    if "://" in str(path):
        raise DatasetError(Problem(str(path), "a URL", "a path: variants are written to and read from folders", "name a folder"))
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
        sync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes, partial: Path) -> None:
    """Write a small file so."""
    with open_atomic(path, partial) as file:
        file.write(content)


def drop_leftovers(folder: Path, *names: str) -> None:
    """Remove what a process that was killed left of files of these names, or patterns; anything else in the folder is somebody's."""
    for name in names:
        for leftover in folder.glob(f"{name}.*.tmp"):
            leftover.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
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
    """Write a file with some of its bytes replaced (spans ascend), and digest what is written, in a thread of its own."""
    out.flush()
    size = source.size if isinstance(source, RemoteFile) else os.fstat(source.fileno()).st_size
    place = 0
    busy: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as aside:
        for piece in _fill_pieces(source, _list_parts(spans, size)):
            if digest is not None:
                busy.append(aside.submit(digest.update, piece))
            _write_piece(out, piece)
            # The disk begins at once, instead of when fsync waits for it; what is not on it yet stays in memory all the same.
            os.posix_fadvise(out.fileno(), place, len(piece), os.POSIX_FADV_DONTNEED)
            place += len(piece)
            if len(busy) == _BUFFERS:
                busy.popleft().result()  # its buffer is filled next
        for rest in busy:
            rest.result()


def _write_piece(out: BinaryIO, piece: memoryview) -> None:
    sent = 0
    while sent < len(piece):
        sent += os.writev(out.fileno(), [piece[sent:]])


def _list_parts(spans: Iterable[Span], size: int) -> Iterator[bytes | range]:
    """What a patched file consists of, one after another: bytes of its own, and ranges of its source."""
    place = 0
    for start, stop, content in spans:
        yield range(place, start)
        yield content
        place = stop
    yield range(place, size)


def _fill_pieces(source: BinaryIO, parts: Iterable[bytes | range]) -> Iterator[memoryview]:
    """The parts joined and cut into pieces; a piece lies in a buffer that is filled anew `_BUFFERS` pieces later."""
    buffers = cycle([memoryview(bytearray(_PIECE)) for _ in range(_BUFFERS)])
    piece, filled = next(buffers), 0
    for part in parts:
        done = 0
        while done < len(part):
            room = piece[filled : filled + len(part) - done]
            if isinstance(part, range):
                got = _read_into(source, room, part[done])
            else:
                got = len(room)
                room[:] = part[done : done + got]
            done += got
            filled += got
            if filled == len(piece):
                yield piece
                piece, filled = next(buffers), 0
    if filled:
        yield piece[:filled]


def _read_into(source: BinaryIO, room: memoryview, start: int) -> int:
    """Read some bytes from `start`, at least one."""
    if isinstance(source, RemoteFile):
        data = source.pread(start, len(room))
        got = len(data)
        room[:got] = data
    else:
        got = os.preadv(source.fileno(), [room], start)
    if not got:
        raise DatasetError(
            Problem(source.name, f"it ends at byte {start}", "the shard as it was indexed", "the source has changed: plan again")
        )
    return got
