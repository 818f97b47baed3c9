"""Where sources lie: paths of this machine, and URLs of object stores, the Hub and web servers through fsspec.

A RemotePath is a `Path` whose parts spell the URL, so that the code that walks folders is one code. What it holds is public: secrets
stay in the standard places (AWS_*, ~/.aws, HF_TOKEN, ~/.netrc), where fsspec's libraries look for them.
"""

from __future__ import annotations

import io
import os
import re
import stat
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from pathlib import Path, PosixPath
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from xxhash import xxh3_64_intdigest

from corruptkit.errors import DatasetError, Problem

SCHEMES = ("s3", "gs", "hf", "http", "https")  # whose servers a manifest, which anybody may have written, can name
STREAM = 16 << 20  # bytes asked for at once where a shard is read from end to end
FRESH = 10.0  # seconds for which an answer about a file is believed while its rows are read one by one
_TRIES, _PAUSE = 5, 0.2
_TAIL = 1 << 16  # bytes at a file's end that are kept: where Parquet has its footer
_MARKS = (  # the first that a server gives tells a file's content apart
    *("ETag", "etag", "xet_hash", "blob_id", "generation", "md5Hash", "content_md5"),
    *("LastModified", "Last-Modified", "mtime", "created"),
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST_NAMES = 1_000_000
_ASKED_AT_ONCE = 16
_ENDING = re.compile(r"\.(?:tar|parquet|arrow|json|sha256|csv|jsonl)$")
_answers: dict[str, tuple[float, dict[str, Any]]] = {}  # what a server said of a file, and when


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

    def read(self, length: int = -1) -> bytes:
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
        raise DatasetError(Problem(text, "no URL", "such as s3://bucket/folder", "mend the URL")) from None
    if "@" in host or fragment or "=" in query or (query and scheme.startswith("http")):
        found, do = "a URL with a user, a query or a fragment", "leave credentials in the standard places: AWS_*, HF_TOKEN, ~/.netrc"
        raise DatasetError(Problem(text, found, "a bare URL", do))
    parts = text.partition("://")[2].rstrip("/").split("/")
    if not host or "::" in text or any(part in ("", ".", "..") for part in parts):
        raise DatasetError(Problem(text, f"the URL of no folder or file ({rest!r:.40})", "such as s3://bucket/folder", "mend the URL"))
    open_system(scheme, text)
    return RemotePath(f"{scheme}:", *parts)


def is_pattern(path: Path) -> bool:
    """Whether a path's name stands for several: braces do on servers alone, since a shell expands those of this machine."""
    return any(c in path.name for c in "*?[") or (isinstance(path, RemotePath) and "{" in path.name)


def open_system(scheme: str, url: str) -> Any:
    """fsspec's file system for a scheme; nothing is remembered but what is asked of it."""
    options: dict[str, Any] = {}
    if scheme == "s3":
        options = {"use_listings_cache": False}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options |= {"endpoint_url": endpoint} if endpoint else {}
    elif scheme == "hf" and os.environ.get("HF_ENDPOINT"):
        options = {"endpoint": os.environ["HF_ENDPOINT"]}
    elif scheme in ("http", "https"):
        options = {"use_listings_cache": False, "client_kwargs": {"trust_env": True}}  # ~/.netrc, and proxies
    try:
        import fsspec

        return fsspec.filesystem(scheme, **options)
    except ImportError:
        raise DatasetError(Problem(url, f"no library for {scheme}:// here", do="pip install 'corruptkit[remote]'")) from None
    except ValueError:
        expected = "s3://, gs://, hf://, http:// or file://"
        raise DatasetError(Problem(url, f"nothing reads {scheme}://", expected, "mend the URL")) from None


def _system(path: RemotePath) -> Any:
    return open_system(path.parts[0].removesuffix(":"), str(path))


def missing_file(path: Path) -> DatasetError:
    return DatasetError(Problem(str(path), "no such file or folder", do="mend the path"))


def explain_error(path: Path, error: BaseException) -> NoReturn:
    """What a server's answer means, in one line; FileNotFoundError where it says that nothing is there."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    statuses = [_status(link) for link in chain]
    status = next((number for number in statuses if number), 0)
    names = {type(link).__name__ for link in chain}
    if status in (401, 403) or isinstance(error, PermissionError) or "NoCredentialsError" in names:
        do = "put credentials that may read it in the standard places: AWS_*, HF_TOKEN, ~/.netrc"
        raise DatasetError(
            Problem(str(path), f"access is refused{f' ({status})' if status else ''}", "a source that may be read", do)
        ) from None
    if any("Connect" in name or "DNS" in name for name in names) and not status:
        raise DatasetError(
            Problem(str(path), "its host cannot be reached", "a server that answers", "mend the URL or the network")
        ) from None
    if status in (404, 410) or (isinstance(error, FileNotFoundError) and not status):
        raise FileNotFoundError(2, "No such file or directory", str(path)) from None
    said = f"status {status}" if status else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    raise DatasetError(Problem(str(path), f"it cannot be read: {said:.100}", do="try again later: what is finished stays")) from None


def _status(error: BaseException) -> int:
    found = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(found, int):
        return found
    said = getattr(error, "response", None)
    number = said.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(said, dict) else None
    return number if isinstance(number, int) else 0


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - each library has errors of its own
        explain_error(path, error)


def ask_info(path: RemotePath) -> dict[str, Any]:
    """What the server says of a path, at most FRESH seconds old. Raises FileNotFoundError, DatasetError."""
    known = _answers.get(str(path))
    listing = _answers.get(f"{path.parent}/")
    if known is None and listing is not None and time.monotonic() - listing[0] < FRESH:
        known = (listing[0], {})  # what a listing has not is not there
    if known is None or time.monotonic() - known[0] >= FRESH:
        try:
            with _explained(path):
                known = time.monotonic(), _ask_server(path)
        except FileNotFoundError:
            known = time.monotonic(), {}
        _answers[str(path)] = known
    if not known[1]:
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return known[1]


def _ask_server(path: RemotePath) -> dict[str, Any]:
    system, url = _system(path), str(path)
    scheme = path.parts[0]
    if scheme == "hf:":
        if len(path.parts) > 4:  # alone, the Hub's answer says nothing of its content; in a listing it does
            for name, info in list_folder(path.parent, system).items():
                if name == path.name:
                    return info
            raise FileNotFoundError(url)
        return dict(system.info(url, refresh=True))
    if scheme in ("http:", "https:"):
        info = dict(system.info(url))
        page = info.get("mimetype") == "text/html" and not _ENDING.search(path.name)
        return info | {"type": "directory" if page else "file"}
    return dict(system.info(url, refresh=True) if scheme == "s3:" else system.info(url))


def forget_answers() -> None:
    """Ask servers anew, whatever they said before."""
    _answers.clear()


def file_mark(info: dict[str, Any]) -> int:
    """A number for the content that a server tells apart: its etag, version or time of change; 0 where it tells none."""
    name = next((name for name in _MARKS if info.get(name)), None)
    if name is None:
        return 0
    return xxh3_64_intdigest(str(info[name]).strip('"').encode()) >> 1


def list_folder(path: Path, system: Any = None) -> dict[str, dict[str, Any]]:
    """The entries of a folder by name, page after page, with what the server says of each."""
    assert isinstance(path, RemotePath), "folders of this machine list themselves"
    with _explained(path):
        system = system or _system(path)
        more = {"refresh": True} if path.parts[0] in ("s3:", "hf:") else {}
        found = system.ls(str(path), detail=True, **more)
    entries = {}
    for info in found:
        name = unquote(info["name"].rstrip("/").rpartition("/")[2]) if path.parts[0].startswith("http") else _last_name(info["name"])
        below = not path.parts[0].startswith("http") or info["name"].startswith(f"{path}/")
        if name and below and "?" not in name and info["name"].strip("/") != system._strip_protocol(str(path)).strip("/"):  # noqa: SLF001
            entries[name] = dict(info)
            if info.get("size") is not None and not path.parts[0].startswith("http"):
                _answers[str(path / name)] = (time.monotonic(), entries[name])
    if not path.parts[0].startswith("http"):
        _answers[f"{path}/"] = (time.monotonic(), {})  # what is not among them is not there
    return entries


def _last_name(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


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


def read_remote(path: RemotePath, start: int, length: int) -> bytes:
    """Exactly `length` bytes from `start`; what a cut connection leaves out is asked for again, from where it was cut."""
    found, last = b"", "nothing came"
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE * 2**attempt)
        try:
            piece = _fetch_range(path, start + len(found), start + length)
        except Exception as error:
            last = f"{type(error).__name__}"
            if _status(error) in (401, 403, 404, 410, 416) or isinstance(error, FileNotFoundError | PermissionError):
                with _explained(path):
                    raise
            continue
        if len(piece) > length - len(found):
            do = "copy it here first, or use a server that reads ranges"
            raise DatasetError(Problem(str(path), "the server sends more than it was asked for", "an answer to Range", do))
        found += piece
        if len(found) == length:
            return found
        last = f"{len(found)} of {length} bytes"
    do = "start again: what is finished stays"
    raise DatasetError(Problem(str(path), f"{last} at byte {start}, {_TRIES} times", "the whole range", do))


def _fetch_range(path: RemotePath, start: int, stop: int) -> bytes:
    system = _system(path)
    if start >= stop:
        return b""
    if getattr(system, "async_impl", False):
        return bytes(system.cat_file(str(path), start=start, end=stop))
    with system.open(str(path), "rb", cache_type="none") as file:
        file.seek(start)
        return bytes(file.read(stop - start))


@lru_cache(maxsize=256)
def _read_tail(path: RemotePath, size: int, mark: int) -> bytes:  # noqa: ARG001 - a changed file is another one
    return read_remote(path, max(0, size - _TAIL), min(size, _TAIL))


def expand_braces(pattern: str) -> list[str]:
    """The names that braces stand for: `{0000..0575}` counts with as many digits, `{a,b}` lists."""
    parts = _BRACES.split(pattern)
    choices = [_choices(part, pattern) if number % 2 else [part] for number, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST_NAMES:
        raise DatasetError(Problem(pattern, f"braces that stand for {count:,} names", f"at most {_MOST_NAMES:,}", "mend the pattern"))
    return ["".join(words) for words in product(*choices)]


def _choices(text: str, pattern: str) -> list[str]:
    first, dots, last = text.partition("..")
    if not dots:
        return text.split(",")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < int(first) + _MOST_NAMES):
        raise DatasetError(Problem(pattern, f"the braces {{{text}}}", "such as {0000..0575}", "mend the pattern"))
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
