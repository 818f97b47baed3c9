"""What servers are asked through fsspec: what lies where, ranges of bytes, and what their refusals mean in one line.

Paths are those of `corruptkit.remote`, whose text is a URL. Nothing that is a secret is looked at: fsspec's libraries find credentials
in the standard places.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from xxhash import xxh3_64_intdigest

from corruptkit.errors import DatasetError, Problem

SCHEMES = ("s3", "gs", "hf", "http", "https")  # whose servers a manifest, which anybody may have written, can name
FRESH = 10.0  # seconds for which an answer about a file is believed while its rows are read one by one
_TRIES, _PAUSE = 5, 0.2
_MARKS = (  # the first that a server gives tells a file's content apart
    *("ETag", "etag", "xet_hash", "blob_id", "generation", "md5Hash", "content_md5"),
    *("LastModified", "Last-Modified", "mtime", "created"),
)
_ENDING = re.compile(r"\.(?:tar|parquet|arrow|json|sha256|csv|jsonl)$")
_answers: dict[str, tuple[float, dict[str, Any]]] = {}  # what a server said of a file, and when


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
        wanted = "gcsfs" if scheme == "gs" else "'corruptkit[remote]'" if scheme in SCHEMES else f"fsspec's library for {scheme}"
        raise DatasetError(Problem(url, f"no library for {scheme}:// here", do=f"pip install {wanted}")) from None
    except ValueError:
        expected = "s3://, gs://, hf://, http:// or file://"
        raise DatasetError(Problem(url, f"nothing reads {scheme}://", expected, "mend the URL")) from None


def _system(path: Path) -> Any:
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


def ask_info(path: Path) -> dict[str, Any]:
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


def _ask_server(path: Path) -> dict[str, Any]:
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


def read_remote(path: Path, start: int, length: int) -> bytes:
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


def _fetch_range(path: Path, start: int, stop: int) -> bytes:
    system = _system(path)
    if start >= stop:
        return b""
    if getattr(system, "async_impl", False):
        return bytes(system.cat_file(str(path), start=start, end=stop))
    with system.open(str(path), "rb", cache_type="none") as file:
        file.seek(start)
        return bytes(file.read(stop - start))
