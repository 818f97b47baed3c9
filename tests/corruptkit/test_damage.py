"""What happens to a variant is found, and what interrupts its making is made good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import corruptkit as ck
from corruptkit.cli import main
from corruptkit.digest import file_sha256
from corruptkit.manifest import checksum_line
from tests.corruptkit.shards import Row, write_shards

CAPTIONS = ["a cat\n", "a dog\r\n", "\ufeffa bird", "", "une \u00e9toile", "a \u202efish"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [Row(f"{n:05d}", n % 7, f"{CAPTIONS[n % 6]} {n}", os.urandom(3000)) for n in range(300)]
    folder = write_shards(tmp_path_factory.mktemp("damage") / "source", rows, shards=6)
    (folder / "LICENSE.txt").write_text("free")
    return folder


@pytest.fixture(scope="module")
def variant(source: Path) -> Path:
    dataset = ck.open_dataset(source)
    recipe = ck.Recipe(seed=1, chain=[ck.Swap(ratio="0.3"), ck.Flip(ratio="0.2")])
    ck.write_variant(dataset, ck.make_plan(recipe, dataset.index()), source.parent / "variant")
    return source.parent / "variant"


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file but caches and the two that tell when it was made."""
    told = ("manifest.json", "manifest.sha256")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in told and not path.name.startswith("index-"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_any_flipped_bit_is_found_and_its_file_named(variant: Path) -> None:
    assert not ck.verify(variant).problems
    files = sorted(path for path in variant.rglob("*") if path.is_file() and not path.name.startswith("index-"))
    picks = np.random.default_rng(0)
    for _ in range(200):
        file = files[picks.integers(len(files))]
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[picks.integers(len(content))] ^= 1 << picks.integers(8)
        file.write_bytes(damaged)
        named = " ".join(map(str, ck.verify(variant).problems))
        file.write_bytes(content)
        assert file.name in named, f"{file} was damaged"
    assert not ck.verify(variant).problems


def test_law_10_restore_gives_back_every_byte(variant: Path, source: Path, tmp_path: Path) -> None:
    ck.restore(variant, tmp_path / "again")
    assert read_tree(tmp_path / "again") == read_tree(source)


def test_image_byte_is_found_by_deep_only(variant: Path, source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", variant, copy], check=True)
    shard = sorted(copy.glob("*.tar"))[2]
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    forge_digests(copy)
    assert not ck.verify(copy).problems
    (problem,) = ck.verify(copy, source=source, deep=True).problems
    assert shard.name in problem.file
    assert problem.key


def forge_digests(folder: Path) -> None:
    """Make the manifest agree with the shards as they are, as a forger would."""
    path = folder / ".corruptkit" / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    for shard in manifest["shards"]:
        shard["sha256"] = file_sha256(folder / shard["name"])
    path.write_text(json.dumps(manifest), "utf-8")
    path.with_name("manifest.sha256").write_bytes(checksum_line(path.read_bytes()))


# The command line in a process that sends itself a signal at its n-th sync of a file.
STOP = """
import os, signal, sys
count, sync, limit = [], os.fsync, int(sys.argv.pop(1))
def fsync(file):
    count.append(file)
    if len(count) == limit:
        os.kill(os.getpid(), signal.SIGNAME)
    sync(file)
os.fsync = fsync
from corruptkit.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(("name", "status"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_law_2_stopped_run_resumes_to_the_same_files(source: Path, tmp_path: Path, name: str, status: int) -> None:
    words = ["make", "--source", str(source), "--swap", "0.3", "--workers", "1", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    whole = read_tree(tmp_path / "whole")
    for step in range(1, 40, 4):
        out = tmp_path / f"stopped-{step}"
        done = subprocess.run(
            [sys.executable, "-c", STOP.replace("SIGNAME", name), str(step), *words, str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            break
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert not (out / ".corruptkit" / "manifest.json").exists()
        assert {p.name: p.read_bytes() for p in out.glob("*.tar")}.items() <= whole.items(), "a final name means a whole file"
        assert main([*words, str(out)]) == 0
        assert read_tree(out) == whole
    assert step > 20, "the run was stopped at many places"
