"""Archives are used with the stated digest only, and nothing in one becomes a path of this machine."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from corruptkit.errors import DatasetError, IntegrityError
from corruptkit.fetching import archives
from corruptkit.fetching.archives import Archive, check_tools, obtain_archive, read_members

ALL = r"[\w./+-]+"


def pack_tar(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                tar.addfile(info)
    return path


def pack_deb(path: Path, members: dict[str, bytes]) -> Path:
    """An `ar` of an odd member and an archive of files, as Debian's are."""
    data = pack_tar(path.with_suffix(".tar"), members).read_bytes()
    pieces = [b"!<arch>\n"]
    for name, content in ((b"debian-binary", b"2.0"), (b"data.tar.gz", data)):
        pieces += [name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + str(len(content)).encode().ljust(10) + b"`\n"]
        pieces += [content, b"\n" * (len(content) % 2)]
    path.write_bytes(b"".join(pieces))
    return path


def describe(path: Path, tool: str = "npm") -> Archive:
    return Archive(tool, "some-package", "1.0.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def install_tool(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """A program that stands for npm or apt-get: the network is not the tests' to break."""
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("pack", [pack_tar, pack_deb])
def test_members_are_read_by_their_names(tmp_path: Path, pack: object) -> None:
    path = pack(
        tmp_path / "a.deb" if pack is pack_deb else tmp_path / "a.tgz", {"./top/b.json": b"1", "top/a.json": b"2", "top/c.txt": b"3"}
    )
    assert list(read_members(path, r"top/[a-z]\.json")) == [("top/b.json", b"1"), ("top/a.json", b"2")]


def test_names_that_lead_out_and_links_are_passed_over(tmp_path: Path) -> None:
    hostile = {"../up.json": b"", "/etc/a.json": b"", "a/../../b.json": b"", "a/..": b"", "a\n.json": b"", "a/b.json": b"sound"}
    path = pack_tar(tmp_path / "a.tgz", hostile, {"a/link.json": "../../etc/passwd"})
    assert list(read_members(path, r"[\w.+-][\w./+-]*")) == [("a/b.json", b"sound")]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tgz"]


def test_member_of_too_many_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "LARGEST", 3)
    with pytest.raises(IntegrityError, match=r"a\.tgz, b\.json: 4 bytes of content, expected at most 3"):
        list(read_members(pack_tar(tmp_path / "a.tgz", {"a.json": b"123", "b.json": b"1234"}), ALL))


@pytest.mark.parametrize("content", [b"", b"no archive", b"!<arch>\n", b"!<arch>\n" + b"debian-binary".ljust(48) + b"0         `\n"])
def test_what_is_no_debian_package_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.deb").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"it holds no data\.tar, expected a Debian package"):
        list(read_members(tmp_path / "a.deb", ALL))


def test_other_bytes_than_stated_are_refused(tmp_path: Path) -> None:
    archive = describe(pack_tar(tmp_path / "a.tgz", {"a": b""}))
    assert obtain_archive("emoji", archive, tmp_path, tmp_path) == tmp_path / "a.tgz"
    (tmp_path / "a.tgz").write_bytes(b"others")
    with pytest.raises(
        IntegrityError, match=rf"SHA-256 {hashlib.sha256(b'others').hexdigest()[:16]}\.\.\., expected {archive.sha256[:16]}"
    ):
        obtain_archive("emoji", archive, tmp_path, tmp_path)


def test_whole_download_is_not_repeated_and_a_part_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = pack_tar(tmp_path / "a.tgz", {"a": b""})
    archive = describe(good)
    install_tool(tmp_path / "bin", monkeypatch, "npm", f"echo $@ >> {tmp_path}/calls; cp {good} .")
    store = tmp_path / "store"
    store.mkdir()
    for content, calls in ((None, 1), (None, 1), (b"a part", 2)):
        if content is not None:
            (store / "a.tgz").write_bytes(content)
        obtain_archive("emoji", archive, store, None)
        assert (tmp_path / "calls").read_text() == "pack --ignore-scripts --loglevel=error some-package@1.0.0\n" * calls


@pytest.mark.parametrize(
    ("tool", "program", "script", "said"),
    [
        (
            "npm",
            "npm",
            "echo 'npm error code E404' >&2; echo 'npm error 404 Not Found' >&2; exit 1",
            "404 Not Found; start the same command",
        ),
        ("npm", "npm", "exit 0", "exit status 0, and no a.tgz"),
        (
            "apt",
            "apt-get",
            "echo 'E: Unable to locate package x' >&2; exit 100",
            "Unable to locate package x; run 'apt-get update' as root",
        ),
    ],
)
def test_failed_download_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, program: str, script: str, said: str
) -> None:
    archive = describe(pack_tar(tmp_path / "a.tgz", {"a": b""}), tool)
    install_tool(tmp_path / "bin", monkeypatch, program, script)
    (tmp_path / "store").mkdir()
    with pytest.raises(DatasetError) as caught:
        obtain_archive("emoji", archive, tmp_path / "store", None)
    assert said in str(caught.value)
    assert str(caught.value).endswith("or name a folder that holds a.tgz with --from")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tool", "said"), [("npm", "npm is not installed, expected npm, which comes with Node.js"), ("apt", "apt-get is not")]
)
def test_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, said: str) -> None:
    archive = describe(pack_tar(tmp_path / "a.tgz", {"a": b""}), tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DatasetError, match=rf"emoji: {said}.*; install it, or put a\.tgz into a folder and name that with --from"):
        check_tools("emoji", [archive], None)
    check_tools("emoji", [archive], tmp_path)
    with pytest.raises(DatasetError, match=r"nowhere/a\.tgz: no such file, expected some-package 1\.0\.0"):
        check_tools("emoji", [archive], tmp_path / "nowhere")
