"""A cache of latents: what the autoencoder makes, the same bytes by any workers and after any death, and nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from xxhash import xxh3_128_digest

import corruptkit as ck
from corruptkit_train import latent_cache
from corruptkit_train.autoencoders import load_autoencoder
from corruptkit_train.config import RunConfig
from corruptkit_train.images import decode_image
from corruptkit_train.latent_cache import make_cache, verify_cache
from tests.corruptkit.damage import flip_bit, small_disk
from tests.corruptkit.shards import Row, write_shards
from tests.train.networks import save_autoencoder
from tests.train.small import latent_run, picture, write_pictures
from tests.train.test_cli import call
from tests.train.test_run import variant_of

KINDS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of each class. Not to be changed."""
    folder = tmp_path_factory.mktemp("autoencoders")
    for kind in KINDS:
        save_autoencoder(folder / kind, kind)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src")


@pytest.fixture
def config(home: Path) -> RunConfig:
    return latent_run(home / "AutoencoderKL", data={"flip": True})


def make(config: RunConfig, source: Path, out: Path, **how: Any) -> Path:
    make_cache(config, ck.open_dataset(source), out, **{"rows_per_shard": 10, **how})
    return out


def content(cache: Path) -> dict[str, bytes]:
    """Every file, but for what says which sources were compared with it: that has times in it."""
    return {path.name: path.read_bytes() for path in sorted(cache.iterdir()) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_holds_what_the_autoencoder_makes(home: Path, source: Path, tmp_path: Path, kind: str) -> None:
    """Row by row, in float16, read with safetensors alone."""
    config = latent_run(home / kind)
    cache = make(config, source, tmp_path / "cache", flipped=True)
    assert config.latents is not None
    autoencoder = load_autoencoder(config.latents)
    manifest = json.loads((cache / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 10, 2]
    number = 0
    for shard in manifest["shards"]:
        assert hashlib.sha256((cache / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]
        with safe_open(cache / shard["name"], "pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        starts = [0, *found["ends"].tolist()]
        for row in range(shard["rows"]):
            stored = picture(number)
            pixels = torch.from_numpy(decode_image(stored, config.data))
            for name, turned in (("moments", pixels), ("flipped", pixels.flip(-1))):
                parts = [part[0].half() for part in autoencoder.encode(turned[None]) if part is not None]
                assert len(parts) == (2 if kind == "AutoencoderKL" else 1)
                assert torch.equal(found[name][row], torch.stack(parts)), (name, number)
            assert not torch.equal(found["moments"][row], found["flipped"][row])
            assert bytes(found["digests"][row].tolist()) == xxh3_128_digest(stored)
            assert bytes(found["keys"][starts[row] : starts[row + 1]].tolist()).decode() == f"{number:05d}"
            number += 1
    assert number == 32


def test_one_and_two_workers_make_the_same_bytes(config: RunConfig, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(config, source, tmp_path / "one")
    two = make(config, source, tmp_path / "two", workers=2)
    monkeypatch.setattr(latent_cache, "_PIECE", 3)
    three = make(config, source, tmp_path / "three")
    assert content(one) == content(two) == content(three)
    assert len(content(one)) == 5


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked process of its own; gives how that ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - nothing of the tests must run on in it
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(moment: int) -> None:
    """This process kills itself at the n-th call that changes a disk or encodes."""
    calls = 0

    def wrap(call: Any) -> Any:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return counted

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, wrap(getattr(os, name)))
    latent_cache.encode_rows = wrap(latent_cache.encode_rows)  # type: ignore[assignment]


@pytest.mark.parametrize("moment", [1, 2, 4, 5, 6, 8, 11, 16, 19, 22])
def test_killed_at_any_moment_the_cache_is_the_same(config: RunConfig, source: Path, tmp_path: Path, moment: int) -> None:
    whole = content(make(config, source, tmp_path / "whole"))

    def killed() -> None:
        die_at(moment)
        make(config, source, tmp_path / "killed")

    assert in_child(killed) == -signal.SIGKILL
    for name, found in content(tmp_path / "killed").items():
        assert found == whole[name] if name in whole else name == "request.json" or name.endswith(".tmp")
    assert content(make(config, source, tmp_path / "killed")) == whole


def test_killed_again_and_again_it_ends(config: RunConfig, source: Path, tmp_path: Path) -> None:
    """Each life gets a little further: what is finished stays."""
    whole = content(make(config, source, tmp_path / "whole"))

    def killed() -> None:
        die_at(6)
        make(config, source, tmp_path / "killed")

    lives = 1
    while (status := in_child(killed)) != 0:
        assert status == -signal.SIGKILL
        lives += 1
        assert lives < 12
    assert lives > 4
    assert content(tmp_path / "killed") == whole


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_that_is_killed_ten_times_makes_the_same_cache(config: RunConfig, tmp_path: Path, workers: int) -> None:
    """By the clock, with worker processes, none of which is left behind."""
    source = write_pictures(tmp_path / "src", 64)
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    line = [sys.executable, "-m", "corruptkit_train", "cache", str(tmp_path / "run.json"), "--data", str(source), "--rows-per-shard", "1"]
    line += ["--workers", str(workers), "--out"]
    start = time.monotonic()
    subprocess.run([*line, str(tmp_path / "whole")], check=True, capture_output=True)
    taken = time.monotonic() - start
    for number in range(10):
        process = subprocess.Popen(
            [*line, str(tmp_path / "killed")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        time.sleep(taken * (0.4 + 0.06 * number))
        process.kill()
        process.communicate()  # the workers hold the pipe: it ends when all of them have ended
    subprocess.run([*line, str(tmp_path / "killed")], check=True, capture_output=True)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_what_is_finished_stays_unless_its_image_has_changed(
    config: RunConfig, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed cache encodes what is missing, and shards whose images are others by now or whose bytes are no shard."""
    cache = make(config, source, tmp_path / "cache")
    (cache / "manifest.json").unlink()
    stated = load_stated(cache / "latents-00000.safetensors")
    encoded: list[range] = []
    encode = latent_cache.encode_rows

    def spy(job: Any, rows: range) -> Any:
        encoded.append(rows)
        return encode(job, rows)

    monkeypatch.setattr(latent_cache, "encode_rows", spy)
    (cache / "request.json").write_text(stated)
    make(config, source, cache)
    assert encoded == []
    (cache / "manifest.json").unlink()
    (cache / "request.json").write_text(stated)
    (cache / "latents-00003.safetensors").write_bytes(b"\0" * 100)
    rows = [Row(f"{i:05d}", i % 4, f"picture {i}", picture(i + (i == 11))) for i in range(32)]
    write_shards(source, rows, members=("png", "txt", "cls"))
    make(config, source, cache)
    assert encoded == [range(10, 20), range(30, 32)]
    assert content(cache) == content(make(config, source, tmp_path / "anew"))


def load_stated(shard: Path) -> str:
    with safe_open(shard, "pt") as opened:
        return str(json.loads(opened.metadata()["corruptkit"])["cache"])


def test_a_damaged_number_in_a_finished_shard_is_encoded_again(config: RunConfig, source: Path, tmp_path: Path) -> None:
    """Before there is a manifest, a shard says itself what its arrays are: a resumed cache takes over no number that rotted."""
    cache = make(config, source, tmp_path / "cache")
    whole = content(cache)
    (cache / "request.json").write_text(load_stated(cache / "latents-00001.safetensors"))
    (cache / "manifest.json").unlink()
    flip_bit(cache / "latents-00001.safetensors", 8 * (len(whole["latents-00001.safetensors"]) // 2))
    assert content(make(config, source, cache)) == whole


def test_a_full_disk_leaves_no_half_shard(config: RunConfig, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "src", 64)
    whole = content(make(config, source, tmp_path / "whole", rows_per_shard=4))
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    with small_disk(tmp_path / "disk", "32k") as disk:
        if disk is None or disk.prefix:
            pytest.skip("a small disk cannot be mounted here")
        words = ("cache", tmp_path / "run.json", "--data", source, "--workers", 1, "--rows-per-shard", 4, "--out", disk.path / "cache")
        said = call(*words)
        assert said.status == 2, said
        assert "no space left on the device; free some space and start the same command again: it resumes" in said.problems[0]
        left = content(disk.path / "cache")
        assert 1 < len(left) < len(whole)
        assert all(found == whole[name] for name, found in left.items() if name != "request.json")
        disk.resize("1m")
        assert call(*words).status == 0
        assert content(disk.path / "cache") == whole


def test_bad_images_are_refused_or_passed_over(config: RunConfig, tmp_path: Path) -> None:
    rows = [Row(f"{i:05d}", i % 4, "x", picture(i) if i not in (3, 31) else b"\x89PNG nothing") for i in range(32)]
    write_shards(tmp_path / "src", rows, members=("png", "cls"))
    with pytest.raises(ck.DatasetError, match=r"00003: an image that cannot be decoded .* state bad = \"exclude\" under \[data\]"):
        make(config, tmp_path / "src", tmp_path / "cache")
    changed = config.model_copy(update={"data": config.data.model_copy(update={"bad": "exclude"})})
    cache = make(changed, tmp_path / "src", tmp_path / "cache")
    assert json.loads((cache / "manifest.json").read_text())["excluded"] == 2
    found = load_file(cache / "latents-00000.safetensors")
    assert found["bad"].tolist() == [0, 0, 0, 1, *[0] * 6]
    assert not found["moments"][3].any()
    assert not found["flipped"][3].any()


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "other images": ({"data": {"size": 16}}, {}, "another cache: its size is 32, expected 16; choose another --out"),
    "flipped ones": ({"data": {"flip": False}}, {}, "its flipped is True, expected False"),
    "other shards": ({}, {"rows_per_shard": 8}, "its rows_per_shard is 10, expected 8"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_another_cache_in_the_folder_is_refused(
    home: Path, config: RunConfig, source: Path, tmp_path: Path, case: str, *, finished: bool
) -> None:
    cache = make(config, source, tmp_path / "cache")
    if not finished:
        (cache / "request.json").write_text(load_stated(cache / "latents-00000.safetensors"))
        (cache / "manifest.json").unlink()
    before = content(cache)
    changes, how, said = REFUSED[case]
    other = latent_run(home / "AutoencoderKL", **{"data": {"flip": True}, **changes})
    with pytest.raises(ck.ConflictError, match=said):
        make(other, source, cache, **how)
    with pytest.raises(ck.ConflictError, match=r"another cache: its encoder is AutoencoderKL with weights [0-9a-f]{16}, expected VQModel"):
        make(latent_run(home / "VQModel", data={"flip": True}), source, cache)
    assert content(cache) == before


def test_a_whole_cache_is_not_made_again_and_a_stale_one_is_refused(
    config: RunConfig, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(config, source, tmp_path / "cache")
    before = content(cache)
    monkeypatch.setattr(latent_cache, "encode_rows", None)
    make(config, source, cache)
    rows = [Row(f"{i:05d}", i % 4, f"picture {i}", picture(i + (i == 11))) for i in range(32)]
    write_shards(source, rows, members=("png", "txt", "cls"))
    with pytest.raises(ck.IntegrityError, match="00011: latents of another image under the same key"):
        make(config, source, cache)
    rows[5] = rows[5]._replace(key="new")
    write_shards(source, rows, members=("png", "txt", "cls"))
    with pytest.raises(ck.ConflictError, match="another cache: its keys is"):
        make(config, source, cache)
    assert content(cache) == before


def test_a_folder_with_something_else_is_refused(config: RunConfig, source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "letter.txt").write_text("dear")
    (tmp_path / "cache" / "notes.tmp").write_text("nobody's but theirs")
    with pytest.raises(ck.ConflictError, match="something else lies there, expected an empty folder"):
        make(config, source, tmp_path / "cache")
    assert content(tmp_path / "cache") == {"letter.txt": b"dear", "notes.tmp": b"nobody's but theirs"}


FORGED: dict[str, dict[str, Any]] = {
    "an encoder of no class": {"encoder": {}},
    "weights of a number": {"encoder": {"class": "AutoencoderKL", "weights": 5}},
    "rows without end": {"rows": 10**30},
    "a later version": {"version": "latents 2"},
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_manifest_is_told_in_one_line(config: RunConfig, source: Path, tmp_path: Path, case: str) -> None:
    cache = make(config, source, tmp_path / "cache")
    manifest = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps(manifest | FORGED[case]))
    with pytest.raises((ck.IntegrityError, ck.ConflictError), match=r"manifest.json: (no manifest of latents|another cache)"):
        make(config, source, cache)
    if case == "a later version":
        with pytest.raises(ck.IntegrityError, match=r"no manifest of latents: version .*'latents 1'"):
            verify_cache(config, ck.open_dataset(source), cache)


def test_latents_that_float16_cannot_hold_are_refused(
    config: RunConfig, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = latent_cache.Autoencoder.encode
    monkeypatch.setattr(latent_cache.Autoencoder, "encode", lambda self, pixels: (encode(self, pixels)[0] * 1e6, None))
    with pytest.raises(ck.IntegrityError, match=r"00000: latents that float16 cannot hold, expected numbers below 65,504"):
        make(config, source, tmp_path / "cache")


def test_verification_finds_what_is_wrong(config: RunConfig, source: Path, tmp_path: Path) -> None:
    dataset = ck.open_dataset(source)
    cache = make(config, source, tmp_path / "cache")
    checks, problems = verify_cache(config, dataset, cache, deep=64)
    assert problems == []
    assert checks[-1] == "32 rows, encoded again, are what is stored"
    shutil.copytree(cache, tmp_path / "forged")
    shard = tmp_path / "forged" / "latents-00001.safetensors"
    flip_bit(shard, 8 * (shard.stat().st_size - 1))
    _, problems = verify_cache(config, dataset, tmp_path / "forged")
    assert [str(problem) for problem in problems] == [f"{shard}: its SHA-256 is not that of manifest.json; make the cache anew"]
    # A forgery whose digests fit: encoding anew alone finds it.
    arrays = load_file(cache / shard.name)
    moments = arrays["moments"].copy()
    moments[3, 0] += np.float16(0.1)
    save_file(arrays | {"moments": moments}, shard, {"corruptkit": load_stated(cache / shard.name)})
    manifest = json.loads((cache / "manifest.json").read_text())
    manifest["shards"][1] |= {"sha256": hashlib.sha256(shard.read_bytes()).hexdigest(), "bytes": shard.stat().st_size}
    (tmp_path / "forged" / "manifest.json").write_text(json.dumps(manifest))
    assert verify_cache(config, dataset, tmp_path / "forged")[1] == []
    _, problems = verify_cache(config, dataset, tmp_path / "forged", deep=64)
    assert len(problems) == 1
    assert "latents-00001.safetensors, 00013: moments that are 0.1 off, expected what the autoencoder makes" in str(problems[0])


def test_the_command(home: Path, source: Path, tmp_path: Path) -> None:
    """Lines for people, one object for programs; --verify says no with status 1."""
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"config": latent_run(home / "AutoencoderTiny").model_dump(mode="json")}))
    words = ("cache", file, "--data", source, "--out", tmp_path / "cache", "--workers", 1)
    said = call(*words)
    assert said.status == 0, said
    assert f"cached    {tmp_path / 'cache'}  32 rows of 1 x 4 x 8 x 8 numbers in float16, 1 shards" in said.out
    assert "0.6 GB for each million images" in said.out
    found = json.loads(call(*words, "--json").out)
    assert found["command"] == "cache"
    assert found["cache"]["rows"] == 32
    assert call(*words, "--verify").out.endswith(f"{tmp_path / 'cache'}: verified\n")
    assert "32 rows, encoded again, are what is stored" in call(*words, "--deep").out
    flip_bit(tmp_path / "cache" / "latents-00000.safetensors", 8 * 3000)
    said = call(*words, "--verify", "--json")
    assert said.status == 1
    assert json.loads(said.out)["problems"][0]["found"] == "its SHA-256 is not that of manifest.json"


MISTAKES: dict[str, tuple[dict[str, Any], tuple[object, ...], str]] = {
    "random crops": (
        {"data": {"crop": "random"}},
        (),
        'found data.crop = "random" with latents, expected "center": a cache holds one crop of each image',
    ),
    "grey": ({"data": {"channels": 1}}, (), "found data.channels = 1 with latents, expected 3: an autoencoder sees colours"),
    "an odd size": (
        {"data": {"size": 30}},
        (),
        "images of 30 pixels a side, expected a multiple of 4, by which the autoencoder divides it",
    ),
    "pixels": ({"latents": None}, (), "latents: a run without the table [latents], expected the autoencoder in it"),
    "no rows": ({}, ("--rows-per-shard", 0), "--rows-per-shard: found 0, expected 1 or more"),
    "no autoencoder": ({"latents": {"autoencoder": "/nowhere"}}, (), "/nowhere, autoencoder: there is no such folder"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_in_one_line(home: Path, source: Path, tmp_path: Path, case: str) -> None:
    changes, flags, line = MISTAKES[case]
    table = latent_run(home / "AutoencoderTiny").model_dump(mode="json")
    for name, value in changes.items():
        table[name] = {**table[name], **value} if isinstance(value, dict) else value
    (tmp_path / "run.json").write_text(json.dumps({"config": table}))
    said = call("cache", tmp_path / "run.json", "--data", source, "--out", tmp_path / "cache", "--workers", 1, *flags)
    assert said.status == 2, said
    assert len(said.problems) == 1
    assert line in said.problems[0]
    assert not (tmp_path / "cache").exists()


def test_a_cache_in_the_data_is_refused(config: RunConfig, source: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    said = call("cache", tmp_path / "run.json", "--data", source, "--out", source / "cache")
    assert said.status == 2
    assert "it lies in the data, expected a folder beside it" in said.problems[0]


def test_a_cache_or_a_run_in_the_source_of_an_overlay_is_refused(config: RunConfig, source: Path, tmp_path: Path) -> None:
    variant = variant_of(source, tmp_path / "flip.overlay")
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    cache = make(config, source, tmp_path / "cache")
    for words in (("cache",), ("run", "--latents", cache)):
        said = call(*words, tmp_path / "run.json", "--data", variant, "--out", source / "inside")
        assert said.status == 2
        assert f"{source / 'inside'}: it lies in the data, expected a folder beside it" in said.problems[0]
    assert not (source / "inside").exists()
    said = call("run", tmp_path / "run.json", "--data", source, "--latents", cache, "--out", cache)
    assert f"{cache}: it lies in the data" in said.problems[0]
