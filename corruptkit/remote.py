"""Where sources lie: paths of this machine, and URLs of object stores, the Hub and web servers through fsspec.

A RemotePath is a `Path` whose parts spell the URL, so that the code that walks folders is one code. What it holds is public: secrets
stay in the standard places (AWS_*, ~/.aws, HF_TOKEN, ~/.netrc), where fsspec's libraries look for them.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from pathlib import Path, PosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from corruptkit.errors import DatasetError, Problem, strip_secrets
from corruptkit.servers import ask_info, file_mark, forget_answers, list_folder, missing_file, open_system, read_remote

STREAM = 16 << 20  # bytes asked for at once where a shard is read from end to end
_TAIL = 1 << 16  # bytes at a file's end that are kept: where Parquet has its footer
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_NAMES = 1_000_000
_ASKED_AT_ONCE = 16


class RemotePath(PosixPath):
    """A path whose first two parts are a scheme and a host or bucket; relative ones are names below another."""

    def __str__(self) -> str:
        head, *rest = self.parts or (".",)
        return f"{head}//{'/'.join(rest)}" if head.endswith(":") and rest else "/".join((head, *rest))

    def __fspath__(self) -> str:
        return str(self)

    def resolve(self, strict: bool = False) -> RemotePath:  # noqa: ARG002, FBT001, FBT002 - pathlib's signature
        return self

    def exists(self, **_: Any) -> bool:
        try:
            ask_info(self)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        try:
            return bool(ask_info(self)["type"] == "directory")
        except FileNotFoundError:
            return False

    def is_file(self, **_: Any) -> bool:
        try:
            return bool(ask_info(self)["type"] == "file")
        except FileNotFoundError:
            return False

    def is_symlink(self) -> bool:
        return False

    def stat(self, **_: Any) -> os.stat_result:
        """Size and, in the place of a time, a number that stands for etag, version or time of change. Raises DatasetError."""
        try:
            info = ask_info(self)
        except FileNotFoundError:
            raise missing_file(self) from None
        if info["type"] == "file" and info.get("size") is None:
            raise DatasetError(Problem(str(self), "the server tells no size", "a file with a size", "copy it here first"))
        kind = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
        times = {"st_mtime_ns": file_mark(info)}
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, info.get("size") or 0, 0, 0, 0), times)

    def iterdir(self) -> Generator[RemotePath, None, None]:
        return (self / name for name in sorted(list_folder(self)))

    def glob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        """Names in this folder that a pattern matches; braces `{0000..0575}`, `{a,b}` list names without asking the server."""
        names = expand_braces(pattern) if "{" in pattern else [pattern]
        if not any(c in pattern for c in "*?["):
            return (self / name for name in names)
        found = [path for path in self.iterdir() if any(path.match(name) for name in names)]
        return iter(found)

    def rglob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        return (path for path in walk_folder(self) if path.match(pattern))

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        """The file for reading bytes."""
        if mode != "rb":
            raise ValueError(f"found the mode '{mode}', expected 'rb': remote files are read, as bytes")
        return RemoteFile(self)

    def read_bytes(self) -> bytes:
        try:
            size = ask_info(self).get("size")
        except FileNotFoundError:
            raise FileNotFoundError(2, "No such file or directory", str(self)) from None
        return read_remote(self, 0, size or 0)

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")


class RemoteFile(io.RawIOBase):
    """A remote file that is read by ranges: nothing is held but its end."""

    def __init__(self, path: RemotePath) -> None:
        super().__init__()
        self.name, self._path, self._place = str(path), path, 0
        known = path.stat()
        self.size, self._mark = known.st_size, known.st_mtime_ns

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, place: int, whence: int = 0) -> int:
        self._place = place + (0, self._place, self.size)[whence]
        return self._place

    def pread(self, place: int, length: int) -> bytes:
        """`length` bytes from `place`, fewer only at the end of the file."""
        length = max(0, min(length, self.size - place))
        tail = max(0, self.size - _TAIL)
        if length and place >= tail:
            return _read_tail(self._path, self.size, self._mark)[place - tail : place - tail + length]
        return read_remote(self._path, place, length) if length else b""

    def readinto(self, room: Any) -> int:
        data = self.pread(self._place, len(room))
        room[: len(data)] = data
        self._place += len(data)
        return len(data)

    def read(self, length: int | None = -1) -> bytes:
        data = self.pread(self._place, self.size if length is None or length < 0 else length)
        self._place += len(data)
        return data


def source_path(path: str | Path) -> Path:
    """Where a source lies: a path of this machine, or a URL as a RemotePath. Raises DatasetError on one that holds a secret."""
    text = str(path)
    if isinstance(path, RemotePath) or "://" not in text:
        return Path(path)
    if text.startswith("file://"):
        return Path(unquote(text.removeprefix("file://")))
    try:
        scheme, host, rest, query, fragment = urlsplit(text)
    except ValueError:
        raise DatasetError(Problem(strip_secrets(text), "no URL", "such as s3://bucket/folder", "mend the URL")) from None
    if "@" in host or fragment or "=" in query or (query and scheme.startswith("http")):
        found, do = "a URL with a user, a query or a fragment", "leave credentials in the standard places: AWS_*, HF_TOKEN, ~/.netrc"
        raise DatasetError(Problem(strip_secrets(text), found, "a bare URL", do))
    parts = text.partition("://")[2].rstrip("/").split("/")
    if not host or "::" in text or any(part in ("", ".", "..") for part in parts):
        raise DatasetError(Problem(text, f"the URL of no folder or file ({rest!r:.40})", "such as s3://bucket/folder", "mend the URL"))
    open_system(scheme, text)
    expand_braces(parts[-1], text)
    return RemotePath(f"{scheme}:", *parts)


def is_pattern(path: Path) -> bool:
    """Whether a path's name stands for several: braces do on servers alone, since a shell expands those of this machine."""
    return any(c in path.name for c in "*?[") or (isinstance(path, RemotePath) and "{" in path.name)


def walk_folder(folder: Path) -> Iterator[RemotePath]:
    """Files below a remote folder, none that is hidden or lies in a hidden folder."""
    assert isinstance(folder, RemotePath), "folders of this machine are walked by os.walk"
    for name, info in sorted(list_folder(folder).items()):
        if name.startswith("."):
            continue
        web = folder.parts[0].startswith("http")
        if info["type"] == "directory" or (web and info["name"].endswith("/")):
            yield from walk_folder(folder / name)
        else:
            yield folder / name


def stat_files(files: list[RemotePath]) -> list[tuple[int, int]]:
    """Size and mark of many files, asked anew: a folder's listing tells those of a thousand at once where the store lists them."""
    forget_answers()
    for folder in dict.fromkeys(file.parent for file in files):
        if not folder.parts[0].startswith("http") and sum(file.parent == folder for file in files) > 1:
            list_folder(folder)
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return [(found.st_size, found.st_mtime_ns) for found in pool.map(RemotePath.stat, files)]


@lru_cache(maxsize=256)
def _read_tail(path: RemotePath, size: int, mark: int) -> bytes:  # noqa: ARG001 - a changed file is another one
    return read_remote(path, max(0, size - _TAIL), min(size, _TAIL))


def expand_braces(pattern: str, where: str = "") -> list[str]:
    """The names that braces stand for: `{0000..0575}` counts with as many digits, `{a,b}` lists."""
    parts = _BRACES.split(pattern)
    choices = [_choices(part, where or pattern) if number % 2 else [part] for number, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_NAMES:
        raise DatasetError(
            Problem(where or pattern, f"braces that stand for {count:,} names", f"at most {_MOST_NAMES:,}", "mend the pattern")
        )
    return ["".join(words) for words in product(*choices)]


def _choices(text: str, pattern: str) -> list[str]:
    first, dots, last = text.partition("..")
    if not dots:
        return text.split(",")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < int(first) + _MOST_NAMES):
        raise DatasetError(Problem(pattern, f"the braces {{{text}}}", "such as {0000..0575}", "mend the pattern"))
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
