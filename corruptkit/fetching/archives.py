"""Archives of public packages: downloaded by npm or apt, used only with the digest that is stated for them, and read without unpacking.

Nothing of an archive becomes a path of this machine: members are read one after another, by names that a pattern allows.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from corruptkit.errors import DatasetError, IntegrityError, Problem

LARGEST = 1 << 28  # bytes of one member
_TOOLS = {"npm": ("npm", "npm, which comes with Node.js"), "apt": ("apt-get", "the apt-get of Debian or Ubuntu")}
_TOLD = re.compile(r"(?:E: |npm (?:error|ERR!) (?!code |A complete log))(?P<what>.+)")
_AR_MAGIC, _AR_HEADER = b"!<arch>\n", 60


class Archive(NamedTuple):
    """A published package as one file, which is what its digest says or nothing."""

    tool: Literal["npm", "apt"]
    package: str
    version: str
    file: str
    sha256: str


def check_tools(source: str, archives: Sequence[Archive], given: Path | None) -> None:
    """That all archives can be had: in the folder that is given, else by their tools. Raises DatasetError."""
    for archive in archives:
        if given is None:
            program, name = _TOOLS[archive.tool]
            if shutil.which(program) is None:
                do = f"install it, or put {archive.file} into a folder and name that with --from"
                raise DatasetError(Problem(source, f"{program} is not installed", name, do))
        elif not (given / archive.file).is_file():
            what = f"{archive.package} {archive.version} as {archive.tool} downloads it"
            raise DatasetError(Problem(str(given / archive.file), "no such file", what, "name another folder, or leave --from out"))


def obtain_archive(source: str, archive: Archive, store: Path, given: Path | None) -> Path:
    """The archive as a file: the one that is given, else one downloaded into `store`. Raises IntegrityError for any other bytes."""
    path = (given or store) / archive.file
    if given is None and not (path.is_file() and _file_digest(path) == archive.sha256):
        path.unlink(missing_ok=True)
        _run_tool(source, archive, store)
    found = _file_digest(path)
    if found != archive.sha256:
        raise IntegrityError(Problem(str(path), f"SHA-256 {found[:16]}...", f"{archive.sha256[:16]}...", "do not use it: get it anew"))
    return path


def read_members(path: Path, names: str) -> Iterator[tuple[str, bytes]]:
    """The files of an npm tarball or a Debian package whose whole name matches the pattern `names`, in the archive's own order.

    Names are relative to the archive's top, without './'. Links, folders and devices are passed over.
    """
    with _open_tar(path) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isreg() and re.fullmatch(names, name, re.ASCII) and ".." not in name.split("/"):
                if member.size > LARGEST:
                    found = f"{member.size} bytes of content"
                    raise IntegrityError(Problem(str(path), found, f"at most {LARGEST}", "do not use it: get it anew", key=name))
                file = tar.extractfile(member)
                assert file is not None
                yield name, file.read()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_tool(source: str, archive: Archive, store: Path) -> None:
    """Let npm or apt download an archive into `store`; neither needs root, and no script of a package runs."""
    if archive.tool == "npm":
        command = ["npm", "pack", "--ignore-scripts", "--loglevel=error", f"{archive.package}@{archive.version}"]
        do = "start the same command again to resume"
    else:
        command = ["apt-get", "-q", "download", f"{archive.package}={archive.version}"]
        do = "run 'apt-get update' as root first"
    # Found and started by the name that a shell would use; the arguments are constants of this package.
    done = subprocess.run(command, cwd=store, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode or not (store / archive.file).is_file():
        told = _TOLD.search(done.stderr)
        what = told["what"] if told else f"exit status {done.returncode}, and no {archive.file}"
        do = f"{do}, or name a folder that holds {archive.file} with --from"
        raise DatasetError(Problem(source, f"{' '.join(command[:2])} {command[-1]}: {what:.200}", do=do))


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """The files of a package as a stream."""
    with path.open("rb") as file:
        if path.name.endswith(".deb"):
            _seek_data(file)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            yield tar


def _seek_data(deb: BinaryIO) -> None:
    """Stand at the archive of files in a Debian package, an `ar` whose last member it is."""
    sound = deb.read(len(_AR_MAGIC)) == _AR_MAGIC
    while sound and len(header := deb.read(_AR_HEADER)) == _AR_HEADER:
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        deb.seek(size + size % 2, 1)
    raise IntegrityError(Problem(deb.name, "it holds no data.tar", "a Debian package", "do not use it: get it anew"))
