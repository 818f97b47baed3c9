"""Ways to harm runs and variants: kills at chosen calls, full disks, flipped bits, forged manifests; and what must hold afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from corruptkit.digest import variant_id
from corruptkit.edits import digest_edits
from corruptkit.formats.overlay import EDITS, read_edits, write_edits
from corruptkit.recipe import Recipe, load_recipe
from tests.corruptkit.shards import HIDDEN, read_tree, read_variant, write_tar

Json = dict[str, Any]
PARTIAL = f"{HIDDEN}/partial"
PATIENCE = 120  # seconds after which a process counts as hanging
CHAIN = """
seed = 5
[[chain]]
kind = "flip"
mode = "prior"
ratio = "0.3"
[[chain]]
kind = "swap"
ratio = "0.4"
where = { keys_file = "keys.txt" }
[[chain]]
kind = "flip"
mode = "within"
ratio = "0.2"
groups = [[0, 1, 2], [4, 6]]
"""


def draw_number(text: str, limit: int) -> int:
    """A number below `limit` that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % limit


def draw_bytes(text: str, count: int) -> bytes:
    return hashlib.shake_256(text.encode()).digest(count)


# A source as img2dataset leaves it


def caption_of(key: str) -> str:
    """Text that stands nowhere else, with something to escape."""
    return f'the "only" caption of {key}: été, \\ and / \N{GRINNING FACE}'


def published_source(folder: Path, *, shards: int = 3, samples: int = 12, image: int = 600) -> Path:
    """Shards with side-cars to img2dataset's column list, in order of arrival and with failed rows, its counts, and a licence."""
    folder.mkdir(parents=True)
    for number in range(shards):
        rows = [_published_row(f"{number:05d}{i:04d}", i) for i in range(samples)]
        good = [row for row in rows if row["status"] == "success"]
        members = [(f"{row['key']}.{suffix}", content) for row in good for suffix, content in _published_members(row, image)]
        write_tar(folder / f"{number:05d}.tar", members)
        arrived = sorted(rows, key=lambda row: draw_number(row["key"], 1 << 30))
        pq.write_table(pa.Table.from_pylist(arrived, schema=_PUBLISHED), folder / f"{number:05d}.parquet")
        counts = {"count": samples, "successes": len(good), "failed_to_download": samples - len(good)}
        (folder / f"{number:05d}_stats.json").write_text(json.dumps(counts, indent=4))
    (folder / "LICENSE").write_bytes(b"CC BY 4.0\r\n")
    (folder / "notes.txt").write_text("unknown to corruptkit, so not carried")
    return folder


_NUMBERS = ("width", "height", "original_width", "original_height")
_TEXTS = ("caption", "url", "key", "status", "error_message")
_PUBLISHED = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, pa.int32()) for name in _NUMBERS]
    + [("exif", pa.string()), ("sha256", pa.string()), ("label", pa.int64())]
)


def _published_row(key: str, number: int) -> Json:
    failed = number % 5 == 4
    sizes = dict.fromkeys(_NUMBERS, None if failed else 64)
    state = {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"} if failed else {"status": "success"}
    exif = None if failed else json.dumps({"Image Make": "x"})
    row = {"caption": caption_of(key), "url": f"https://example.org/{key}.jpg", "key": key, "error_message": None, **state, **sizes}
    return row | {"exif": exif, "sha256": None if failed else hashlib.sha256(key.encode()).hexdigest(), "label": number % 7}


def _published_members(row: Json, image: int) -> list[tuple[str, bytes]]:
    return [
        ("jpg", b"\xff\xd8\xff\xe0" + draw_bytes(row["key"], image)),
        ("json", json.dumps(row, indent=4).encode()),
        ("txt", row["caption"].encode()),
        ("cls", f"{row['label']}\n".encode()),
    ]


def chain_file(folder: Path) -> Path:
    """A recipe of three stages with content that it names by digest."""
    (folder / "keys.txt").write_text("".join(f"{shard:05d}{i:04d}\n" for shard in range(9) for i in range(99) if i % 3))
    (folder / "chain.toml").write_text(CHAIN)
    return folder / "chain.toml"


def chain_recipe(folder: Path) -> Recipe:
    return load_recipe(chain_file(folder))


# Commands, and blows at chosen calls


# Runs in every Python process of a command: counts calls that change a disk, in the main process or in the workers, and strikes at one.
_HOOK = """
import os, shutil, signal, sys, time
asked = os.environ
who = "worker" if "--multiprocessing-fork" in sys.orig_argv else "main" if "corruptkit" in sys.orig_argv else "other"
limit = int(asked.get("DAMAGE_AT", 0)) if who == asked.get("DAMAGE_WHO", "main") else 0
pause = float(asked.get("DAMAGE_PAUSE", 0))
count = 0

def strike():
    blow = asked["DAMAGE_BLOW"]
    if blow == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif blow == "orphan":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    elif blow == "interrupt":
        os.killpg(0, signal.SIGINT)
        time.sleep(600 if who == "worker" else 0)

def wrap(name, call):
    def counted(*args, **named):
        global count
        count += 1
        if count == limit:
            if name == "writev":  # half of it is done
                call(args[0], [args[1][0][: (len(args[1][0]) + 1) // 2]])
            strike()
        time.sleep(pause)
        return call(*args, **named)
    return counted

if who != "other":
    for name in ("fsync", "replace", "unlink", "mkdir", "rmdir", "writev"):
        setattr(os, name, wrap(name, getattr(os, name)))
    if "DAMAGE_FREE" in asked:
        usage = shutil.disk_usage
        shutil.disk_usage = lambda path: usage(path)._replace(free=int(asked["DAMAGE_FREE"]))
"""


def hook_environment(folder: Path, **asked: object) -> dict[str, str]:
    """An environment whose Python processes are harmed as asked: at=k, who=main|worker, blow=kill|orphan|interrupt, pause, free."""
    place = folder / "hook"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(_HOOK)
    return dict(os.environ) | {"PYTHONPATH": str(place)} | {f"DAMAGE_{name.upper()}": str(value) for name, value in asked.items()}


def start_command(*words: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """A corruptkit command as the leader of a session of its own, so that all of its processes can be found."""
    command = [sys.executable, "-m", "corruptkit", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)


def end_command(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a command that ends, and that leaves no process behind."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert_gone(process.pid)
    return process.returncode, out, err


def run_command(*words: str | Path, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    return end_command(start_command(*words, env=env))


def group_processes(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, leader = path.read_text().rpartition(")")[2].split()[:3]
            if int(leader) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def assert_gone(group: int) -> None:
    """Nothing of a command is left: an orphan would go on writing."""
    limit = time.monotonic() + PATIENCE
    while left := group_processes(group):
        if time.monotonic() > limit:
            os.killpg(group, signal.SIGKILL)
            raise AssertionError(f"processes {left} of a command that has ended are still there")
        time.sleep(0.01)


# What must hold after a blow


_OWN = re.escape(str(Path(multiprocessing.__file__).parent))
_UNBORN = re.compile(
    r"Traceback \(most recent call last\):"
    rf'|  File "(?:<string>|{_OWN}/\w+\.py)", line \d+, in [\w<>]+'
    r"|    .*"
    r"|(?:EOFError|_pickle\.UnpicklingError|FileNotFoundError|BrokenPipeError|ConnectionResetError)(?:: .*)?"
    rf"|{_OWN}/resource_tracker\.py:\d+: UserWarning: resource_tracker: .*"
    r"|  warnings\.warn\(.*"
)


def assert_no_traceback(errors: str) -> None:
    """But that of a worker whose parent was killed while it started it: multiprocessing's own code alone, and nobody can catch it.

    Line by line, since two such workers may write at once.
    """
    if "Traceback" in errors:
        assert ", in spawn_main\n" in errors, errors
        assert all(_UNBORN.fullmatch(line) for line in errors.splitlines()), errors


def assert_wreck(out: Path, whole: Path) -> None:
    """What has a final name is whole, what is half-written lies in the partial folder, and a manifest means that all is there."""
    found, expected = read_tree(out) if out.exists() else {}, read_tree(whole)
    kept = {name: content for name, content in found.items() if not name.startswith(f"{PARTIAL}/")}
    for name, content in kept.items():
        assert name in expected, f"{name} is no file of a variant"
        assert content == expected[name] or Path(name).name in ("manifest.json", "manifest.sha256"), f"{name} is not whole"
    if f"{HIDDEN}/manifest.json" in kept:
        assert kept.keys() == expected.keys()
        manifest = kept[f"{HIDDEN}/manifest.json"]
        assert kept[f"{HIDDEN}/manifest.sha256"].startswith(hashlib.sha256(manifest).hexdigest().encode())


def assert_whole(out: Path, whole: Path) -> None:
    """A variant equals that of an undisturbed run, and nothing temporary is left."""
    assert read_variant(out) == read_variant(whole)
    assert not (out / PARTIAL).exists()


# Flipped bits and forgeries


def flip_bit(path: Path, bit: int) -> None:
    """Change one bit of a file where it lies."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def forge_variant(variant: Path, out: Path, forge: Callable[[Path, Json], object]) -> Path:
    """A copy that `forge` has changed (folder, manifest), with every size, digest and id made to fit again."""
    shutil.copytree(variant, out, symlinks=True)
    manifest = json.loads((out / HIDDEN / "manifest.json").read_bytes())
    forge(out, manifest)
    for name, record in [(r["name"], r) for r in manifest["shards"]] + [(r["path"], r) for r in manifest["files"]]:
        content = (out / name).read_bytes()
        record["bytes"], record["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    with suppress(TypeError, UnicodeEncodeError):  # an identity that has no id
        manifest["variant_id"] = variant_id(manifest["identity"])
    write_manifest(out, json.dumps(manifest, indent=1).encode())
    return out


def write_manifest(folder: Path, content: bytes) -> None:
    """Put any bytes in the place of a manifest, with the checksum that fits them."""
    (folder / HIDDEN / "manifest.json").write_bytes(content)
    (folder / HIDDEN / "manifest.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  manifest.json\n")


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Put other bytes of the same length in a file, in the first place where the old ones stand."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


def forge_edits(folder: Path, manifest: Json, change: Callable[[list[Json]], object]) -> None:
    """Change the rows of a plan, and the identity with them."""
    path = folder / HIDDEN / "plan.parquet"
    rows = read_edits(path).to_pylist()
    change(rows)
    edits = pa.Table.from_pylist(rows, schema=EDITS).combine_chunks()
    out = io.BytesIO()
    write_edits(edits, out)
    path.write_bytes(out.getvalue())
    manifest["identity"] |= {"plan_digest": digest_edits(edits), "edits": len(rows)}


# Disks


class Disk(NamedTuple):
    """A small file system: how to run a command that sees it at `path`, and where this process sees it."""

    prefix: tuple[str, ...]
    path: Path
    seen: Path

    def resize(self, size: str) -> None:
        subprocess.run([*self.prefix, "mount", "-o", f"remount,size={size}", self.path], check=True)

    def protect(self) -> None:
        """Nobody can write to it any more, not even root."""
        subprocess.run([*self.prefix, "mount", "-o", "remount,ro", self.path], check=True)


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Disk | None]:
    """A tmpfs at a new folder, by mount or in a namespace of our own; None where the system allows neither."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(words, check=False, capture_output=True).returncode == 0:
        try:
            yield Disk((), folder, folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        return
    script = '"$@" && echo mounted && exec cat'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout is not None
        mounted = holder.stdout.readline() == "mounted\n"
        target = str(holder.pid)
        enter = ("nsenter", "--target", target, "--user", "--mount", "--preserve-credentials")
        yield Disk(enter, folder, Path("/proc", target, "root", folder.relative_to("/"))) if mounted else None
        with suppress(BrokenPipeError):
            holder.communicate()  # the end of its input ends it, and the mount with it
