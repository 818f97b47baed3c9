"""Runs on cached latents: all laws of runs hold on them, one cache serves every variant, and a stale one is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import corruptkit as ck
from corruptkit_train import latents
from corruptkit_train.autoencoders import load_autoencoder
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.config import RunConfig
from corruptkit_train.draws import draw_uniform
from corruptkit_train.images import ImageConfig, Share, read_batches
from corruptkit_train.latent_cache import make_cache
from corruptkit_train.latents import Latents
from corruptkit_train.run import train_run
from corruptkit_train.sampling import decode_samples
from corruptkit_train.trained import open_model
from tests.corruptkit.damage import flip_bit
from tests.corruptkit.shards import Row, write_shards
from tests.train.networks import save_autoencoder
from tests.train.small import latent_run, picture, small_run, write_pictures
from tests.train.test_cli import call
from tests.train.test_run import Seen, relative_difference, saved, variant_of

KIND = "AutoencoderKL"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, an autoencoder of two classes, and a cache with mirrored images. Not to be changed."""
    folder = tmp_path_factory.mktemp("latents")
    write_pictures(folder / "src")
    for kind in (KIND, "VQModel"):
        save_autoencoder(folder / kind, kind)
    make(latent_run(folder / KIND, data={"flip": True}), folder / "src", folder / "cache")
    return folder


@pytest.fixture
def config(home: Path) -> RunConfig:
    return latent_run(home / KIND, data={"flip": True})


def make(config: RunConfig, source: Path, out: Path) -> Path:
    make_cache(config, ck.open_dataset(source), out, rows_per_shard=10)
    return out


def open_latents(config: RunConfig, source: Path, cache: Path, **how: Any) -> Latents:
    assert config.latents is not None
    return Latents(cache, ck.open_dataset(source), config.data, config.latents, load_autoencoder(config.latents), **how)


def stored_rows(cache: Path, name: str = "moments") -> torch.Tensor:
    return torch.cat([load_file(file)[name] for file in sorted(cache.glob("latents-*.safetensors"))])


# What is read


@pytest.mark.parametrize("keep", [True, False])
def test_a_row_is_what_the_cache_holds_mirrored_where_its_number_says(home: Path, config: RunConfig, *, keep: bool) -> None:
    found = open_latents(config, home / "src", home / "cache", keep=keep)
    rows, numbers = torch.arange(31, -1, -1), torch.arange(100, 132)
    moments, of = found.load(rows, numbers, 7)
    assert torch.equal(of, rows)
    turned = draw_uniform(7, "flip", numbers) < 0.5
    assert 4 < int(turned.sum()) < 28
    plain, mirrored = (stored_rows(home / "cache", name)[rows] for name in ("moments", "flipped"))
    assert torch.equal(moments, torch.where(turned.view(-1, 1, 1, 1, 1), mirrored, plain))
    unturned = config.model_copy(update={"data": ImageConfig(size=32)})
    assert torch.equal(open_latents(unturned, home / "src", home / "cache", keep=keep).load(rows, numbers, 7)[0], plain)


def test_batches_are_read_ahead_in_order(home: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_latents(config, home / "src", home / "cache")
    batches = list(read_batches(found, Share(5, 5), range(3, 20), seed=3, workers=2))
    for turn, batch in enumerate(batches, 3):
        assert batch.numbers.tolist() == list(range(turn * 5, turn * 5 + 5))
        assert torch.equal(batch.images, found.load(batch.rows, batch.numbers, 3)[0])
    assert len(batches) == 17

    def fail(*_: object) -> None:
        raise ck.IntegrityError(ck.Problem("cache", "gone"))

    monkeypatch.setattr(found, "load", fail)
    with pytest.raises(ck.IntegrityError, match="cache: gone"):
        next(read_batches(found, Share(5, 5), range(3), seed=3))


def test_the_posterior_is_drawn_by_image_number(home: Path) -> None:
    """mean + deviation x noise, shifted and scaled; another noise at each sight, the same for the same number."""
    config = latent_run(home / KIND, latents={"scale": 0.5, "shift": 2.0})
    found = open_latents(config, home / "src", home / "cache")
    moments, _ = found.load(torch.zeros(4000, dtype=torch.int64), torch.arange(4000), 0)
    clean = found.prepare(moments, torch.arange(4000), 0)
    mean, deviation = moments[0].double()
    assert clean.shape == (4000, 4, 4, 4)
    assert clean.dtype == torch.float32
    noise = (clean.double() / 0.5 + 2.0 - mean) / deviation
    assert abs(float(noise.mean())) < 4 / (4000 * 64) ** 0.5
    assert abs(float(noise.var()) - 1) < 0.02
    assert len(torch.unique(clean[:, 0, 0, 0])) > 3900
    few = torch.tensor([17, 3])
    assert torch.equal(found.prepare(moments[few], few, 0), clean[few])
    assert not torch.equal(found.prepare(moments[few], few, 1), clean[few])
    averaged = latent_run(home / KIND, latents={"scale": 0.5, "shift": 2.0, "draw": "mean"})
    still = open_latents(averaged, home / "src", home / "cache").prepare(moments[:1], torch.arange(1), 0)
    assert torch.equal(still[0], (moments[0, 0].float() - 2.0) * 0.5)


def test_latents_without_deviation_are_what_was_encoded(home: Path, tmp_path: Path) -> None:
    config = latent_run(home / "VQModel")
    cache = make(config, home / "src", tmp_path / "cache")
    found = open_latents(config, home / "src", cache)
    moments, _ = found.load(torch.arange(4), torch.arange(4), 0)
    assert moments.shape == (4, 1, 3, 8, 8)
    assert torch.equal(found.prepare(moments, torch.arange(4), 0), moments[:, 0].float())  # a VQModel's scale is 1


def test_the_next_row_stands_for_a_bad_one(home: Path, tmp_path: Path) -> None:
    """As with pixels: at the end of the data the first one."""
    rows = [Row(f"{i:05d}", i % 4, "x", picture(i) if i not in (3, 4, 31) else b"nothing") for i in range(32)]
    write_shards(tmp_path / "src", rows, members=("png", "cls"))
    config = latent_run(home / KIND, data={"bad": "exclude"})
    cache = make(config, tmp_path / "src", tmp_path / "cache")
    found = open_latents(config, tmp_path / "src", cache)
    moments, of = found.load(torch.tensor([3, 4, 5, 31]), torch.arange(4), 0)
    assert of.tolist() == [5, 5, 5, 0]
    assert torch.equal(moments, stored_rows(cache)[of])
    with pytest.raises(
        ck.CatalogError, match=r'3 images that could not be decoded were passed over, expected none, since data\.bad is "ref'
    ):
        open_latents(latent_run(home / KIND), tmp_path / "src", cache)


# What is refused


STALE: dict[str, tuple[dict[str, Any], str]] = {
    "another autoencoder": ({"latents": {"autoencoder": "VQModel"}}, "latents of another autoencoder, AutoencoderKL .*, expected VQModel "),
    "another size": ({"data": {"size": 16}}, "latents of other images: data.size is 32, expected 16, as the run says"),
}


@pytest.mark.parametrize("case", STALE)
def test_a_cache_for_another_run_is_refused_by_name(home: Path, tmp_path: Path, case: str) -> None:
    changes, said = STALE[case]
    config = latent_run(home / KIND, **{name: dict(value) for name, value in changes.items() if name != "latents"})
    if "latents" in changes:
        config = latent_run(home / changes["latents"]["autoencoder"])
    with pytest.raises(ck.CatalogError, match=f"{said}.*; make another cache with corruptkit-train cache"):
        train_run(config, home / "src", tmp_path / "run", latents=home / "cache")
    assert not (tmp_path / "run").exists()


def test_a_cache_without_mirrored_images_is_refused(home: Path, config: RunConfig, tmp_path: Path) -> None:
    cache = make(latent_run(home / KIND), home / "src", tmp_path / "cache")
    with pytest.raises(ck.CatalogError, match=r"no latents of flipped images, expected them, since data\.flip is true"):
        train_run(config, home / "src", tmp_path / "run", latents=cache)


def test_weights_that_changed_are_another_autoencoder(home: Path, tmp_path: Path) -> None:
    """By what they are, not by where they lie."""
    shutil.copytree(home / KIND, tmp_path / "moved")
    open_latents(latent_run(tmp_path / "moved"), home / "src", home / "cache")
    save_autoencoder(tmp_path / "moved", KIND, seed=1)
    with pytest.raises(ck.CatalogError, match="latents of another autoencoder"):
        open_latents(latent_run(tmp_path / "moved"), home / "src", home / "cache")


def with_rows(folder: Path, change: Callable[[list[Row]], object]) -> Path:
    rows = [Row(f"{i:05d}", i % 4, f"picture {i}", picture(i)) for i in range(32)]
    change(rows)
    write_shards(folder, rows, members=("png", "txt", "cls"))
    return folder


def test_other_rows_are_refused_by_name(home: Path, config: RunConfig, tmp_path: Path) -> None:
    fewer = with_rows(tmp_path / "fewer", lambda rows: rows.pop())
    with pytest.raises(ck.CatalogError, match="latents of 32 rows, expected 31, as the data has"):
        open_latents(config, fewer, home / "cache")
    other = with_rows(tmp_path / "other", lambda rows: rows.__setitem__(9, rows[9]._replace(key="other")))
    with pytest.raises(ck.CatalogError, match="cache, other: no latents of a row, expected the rows of the data; make another cache"):
        open_latents(config, other, home / "cache")


def test_another_split_is_refused_by_name(home: Path, config: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(home / "cache", tmp_path / "cache")
    file = tmp_path / "cache" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"split": "val"}))
    with pytest.raises(ck.CatalogError, match="latents of the split 'val', expected 'train', as the data is"):
        open_latents(config, home / "src", tmp_path / "cache")


def test_an_image_that_changed_is_refused_by_its_key(home: Path, config: RunConfig, tmp_path: Path) -> None:
    """Under the same key, in as many bytes: one of the image's pixels, in a shard whose other bytes stay."""
    source, cache = shutil.copytree(home / "src", tmp_path / "src"), shutil.copytree(home / "cache", tmp_path / "cache")
    open_latents(config, source, cache)
    shard = max(source.glob("*.tar"))
    with tarfile.open(shard) as tar:
        member = next(member for member in tar if member.name.endswith(".png"))
    flip_bit(shard, 8 * (member.offset_data + member.size - 20))
    with pytest.raises(
        ck.IntegrityError, match=f"cache, {member.name[:-4]}: latents of another image under the same key, expected those of"
    ):
        open_latents(config, source, cache)


def test_an_image_of_a_folder_that_changed_is_refused(home: Path, tmp_path: Path) -> None:
    """A folder's size and time tell nothing of the images in it."""
    for number in range(8):
        place = tmp_path / "src" / f"class{number % 2}" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(number))
    config = latent_run(home / KIND)
    cache = make(config, tmp_path / "src", tmp_path / "cache")
    open_latents(config, tmp_path / "src", cache)
    variant = variant_of(tmp_path / "src", tmp_path / "flip.overlay")
    open_latents(config, variant, cache)
    place = tmp_path / "src" / "class1" / "5.png"
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    for data in (tmp_path / "src", variant):
        with pytest.raises(ck.IntegrityError, match="5: latents of another image under the same key"):
            open_latents(config, data, cache)


def test_images_are_compared_once(home: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start reads none of them, unless a file has another size or time; so it is for a variant of its own shards."""
    source, cache = shutil.copytree(home / "src", tmp_path / "src"), shutil.copytree(home / "cache", tmp_path / "cache")
    compared: list[int] = []
    find = latents.find_changed

    def spy(*words: Any) -> Any:
        compared.append(1)
        return find(*words)

    monkeypatch.setattr(latents, "find_changed", spy)
    for _ in range(3):
        open_latents(config, source, cache)
        open_latents(config, variant_of(source, tmp_path / "flip.overlay"), cache)
    assert len(compared) == 1
    os.utime(max(source.glob("*.tar")), ns=(0, 0))
    open_latents(config, source, cache)
    assert len(compared) == 2
    os.utime(cache / "latents-00001.safetensors", ns=(0, 0))
    open_latents(config, source, cache)
    assert len(compared) == 3
    shutil.rmtree(cache / "checked")
    (cache / "checked").write_text("no folder")  # as on a disk that cannot be written to
    for _ in range(2):
        open_latents(config, source, cache)
    assert len(compared) == 5
    flip_bit(cache / "latents-00001.safetensors", 8 * 3000)
    with pytest.raises(ck.IntegrityError, match=r"latents-00001\.safetensors: its SHA-256 is not that of manifest\.json"):
        open_latents(config, source, cache)


def forge_keys(shard: Path) -> None:
    arrays = load_file(shard)
    arrays["ends"] = arrays["ends"] + 1000
    save_file(arrays, shard)


def forge_header(name: str, **changes: Any) -> Callable[[Path], None]:
    """What a header says of an array is changed, and the manifest along with it, so that digests fit."""

    def forge(cache: Path) -> None:
        shard = cache / "latents-00002.safetensors"
        content = shard.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header[name] |= changes
        forged = json.dumps(header).encode()
        shard.write_bytes(len(forged).to_bytes(8, "little") + forged + content[8 + length :])
        manifest = json.loads((cache / "manifest.json").read_text())
        manifest["shards"][2] |= {"bytes": shard.stat().st_size, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}
        (cache / "manifest.json").write_text(json.dumps(manifest))

    return forge


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (
        shutil.rmtree,
        "manifest.json: No such file or directory, expected a whole cache of latents; make one with corruptkit-train",
    ),
    "unfinished": (
        lambda cache: (cache / "manifest.json").unlink(),
        "manifest.json: an unfinished cache, expected a whole cache of latents; start corruptkit-train cache again: it resumes",
    ),
    "no JSON": (lambda cache: (cache / "manifest.json").write_text("{"), "manifest.json: no manifest of latents: "),
    "a field less": (lambda cache: (cache / "manifest.json").write_text("{}"), "no manifest of latents: encoder Field required"),
    "no shard": (lambda cache: (cache / "latents-00002.safetensors").unlink(), "latents-00002.safetensors: cannot be read: No such file"),
    "a short shard": (
        lambda cache: os.truncate(cache / "latents-00002.safetensors", 1000),
        "latents-00002.safetensors: no shard of latents: ",
    ),
    "an empty shard": (lambda cache: os.truncate(cache / "latents-00002.safetensors", 0), "latents-00002.safetensors: no shard of latents"),
    "keys that end nowhere": (lambda cache: forge_keys(cache / "latents-00002.safetensors"), "no shard of latents: "),
    "shards that do not add up": (
        lambda cache: (cache / "manifest.json").write_text((cache / "manifest.json").read_text().replace('"rows": 32', '"rows": 33')),
        "no manifest of latents: Value error, found shards that do not add up to 33 rows",
    ),
    "shards of no row": (
        lambda cache: (cache / "manifest.json").write_text((cache / "manifest.json").read_text().replace('shard": 10', 'shard": 0')),
        "no manifest of latents: rows_per_shard Input should be greater than 0",
    ),
    "numbers of another kind": (forge_header("moments", dtype="U8"), "no shard of latents: moments of U8 and shape"),
    "numbers elsewhere": (forge_header("moments", data_offsets=[-8, 2552]), "no shard of latents: moments of other bytes than its shape"),
    "rows without end": (forge_header("moments", shape=[10**30, 2, 4, 4, 4]), "no shard of latents: moments of other bytes"),
    "a place beyond": (forge_header("bad", data_offsets=[10**30, 10**30 + 10]), "no shard of latents: "),
    "a place of infinity": (forge_header("bad", data_offsets=[float("inf"), float("inf")]), "no shard of latents: bad of other bytes"),
    "digests of no row": (forge_header("digests", shape=[160, 1]), "no shard of latents: other arrays, of rows"),
    "one digest": (forge_header("digests", shape=[160]), "no shard of latents: digests of U8 and shape [160]"),
    "ends of ends": (forge_header("ends", shape=[10, 1]), "no shard of latents: ends of I64 and shape [10, 1]"),
    "another shard": (
        lambda cache: shutil.copy(cache / "latents-00003.safetensors", cache / "latents-00002.safetensors"),
        "latents-00002.safetensors: arrays of shapes {(2, 2, 4, 4, 4)}",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_cache_is_told_in_one_line(home: Path, config: RunConfig, tmp_path: Path, case: str) -> None:
    shutil.copytree(home / "cache", tmp_path / "cache")
    harm, line = BROKEN[case]
    harm(tmp_path / "cache")
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    words = ("run", tmp_path / "run.json", "--data", home / "src", "--out", tmp_path / "run")
    said = call(*words, "--latents", tmp_path / "cache")
    assert said.status == 2, said
    assert len(said.problems) == 1
    assert line in said.problems[0]
    assert not (tmp_path / "run").exists()


def test_a_missing_cache_is_told_with_the_command_that_makes_it(home: Path, config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
    words = ("run", tmp_path / "run.json", "--data", home / "src", "--out", tmp_path / "run", "--set", "data.flip=false")
    (line,) = call(*words).problems
    _, _, command = line.partition("make it with: corruptkit-train ")
    made = command.removesuffix(", then state --latents").split(" ")
    cache = made[made.index("--out") + 1]
    assert cache == "src-latents"
    made[made.index("--out") + 1] = str(tmp_path / cache)
    assert call(*made, "--workers", 1).status == 0
    assert call(*words, "--latents", tmp_path / cache).status == 0
    with pytest.raises(ck.CatalogError, match="--latents: no cache for a run of latents"):
        train_run(config, home / "src", tmp_path / "other")
    with pytest.raises(ck.CatalogError, match=r"--latents: a cache for a run of pixels; leave it out, or state latents\.autoencoder"):
        train_run(small_run(), home / "src", tmp_path / "other", latents=tmp_path / cache)


# Laws of runs


def test_half_and_half_is_whole(home: Path, config: RunConfig, tmp_path: Path) -> None:
    """N images straight are N/2, an end, and N/2 more, to the bit; from memory or from the disk, whatever machine.workers is."""
    train_run(config, home / "src", tmp_path / "whole", latents=home / "cache")
    train_run(config, home / "src", tmp_path / "halves", latents=home / "cache", images=64)
    other = config.model_copy(update={"machine": config.machine.model_copy(update={"workers": 2, "hold": 0})})
    train_run(other, home / "src", tmp_path / "halves", latents=home / "cache")
    assert saved(tmp_path / "whole", 128) == saved(tmp_path / "halves", 128)


def test_clean_and_corrupted_runs_are_pairs(home: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same latents, times and noises; conditions differ where the plan says. At the second sight, a row has another noise."""
    variant = variant_of(home / "src", tmp_path / "flip.overlay")
    seen = Seen(monkeypatch)
    train_run(config, home / "src", tmp_path / "clean", latents=home / "cache")
    clean = seen.take()
    train_run(config, variant, tmp_path / "corrupted", latents=home / "cache")
    corrupted = seen.take()
    assert clean["clean"].shape == (128, 4, 4, 4)
    for name in ("numbers", "rows", "clean", "sample", "timestep"):
        assert torch.equal(clean[name], corrupted[name]), name
    changed = {
        row for row, old, new in zip(clean["rows"].tolist(), clean["ids"].tolist(), corrupted["ids"].tolist(), strict=True) if old != new
    }
    assert len(changed) == 8
    for row in range(32):
        sights = clean["clean"][clean["rows"] == row]
        assert len(torch.unique(sights[:, 0, 0, 0])) == len(sights) == 4


def test_two_processes_are_one(home: Path, config: RunConfig, tmp_path: Path) -> None:
    """100 fp32 steps of one global batch on one process and on two (gloo): weights differ by sums alone."""
    changed = config.model_copy(update={"images": 1600})
    (tmp_path / "run.json").write_text(json.dumps({"config": changed.model_dump(mode="json")}))
    train_run(changed, home / "src", tmp_path / "one", latents=home / "cache")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "corruptkit_train", "run"]
    line += [str(tmp_path / "run.json"), "--data", str(home / "src"), "--latents", str(home / "cache"), "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    both = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert both.returncode == 0, both.stderr
    one, two = (load_file(tmp_path / run / "checkpoints" / f"{1600:012d}" / "weights.safetensors") for run in ("one", "two"))
    assert 0 < relative_difference(one, two) < 1e-4


def test_every_format_of_a_variant_shares_one_cache(home: Path, config: RunConfig, tmp_path: Path) -> None:
    """A cache of the source serves its variant as tars, Parquet, Arrow and an overlay: the same weights to the bit."""
    dataset = ck.open_dataset(home / "src")
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.25")]), dataset.index())
    found = []
    for layout in ("webdataset", "parquet", "arrow", "overlay"):
        ck.write_variant(dataset, plan, tmp_path / layout, layout)
        train_run(config, tmp_path / layout, tmp_path / f"run-{layout}", latents=home / "cache", images=64)
        found.append(saved(tmp_path / f"run-{layout}", 64))
    assert all(parts == found[0] for parts in found)
    train_run(config, home / "src", tmp_path / "run-clean", latents=home / "cache", images=64)
    assert saved(tmp_path / "run-clean", 64) != found[0]


def test_rows_in_another_order_are_found_by_key(home: Path, config: RunConfig, tmp_path: Path) -> None:
    """A cache that was made of the same rows in another order serves as well."""
    turned = with_rows(tmp_path / "src", lambda rows: rows.reverse())
    cache = make(config, turned, tmp_path / "cache")
    numbers = torch.arange(32)
    moments = [open_latents(config, home / "src", place).load(numbers, numbers, 0)[0] for place in (home / "cache", cache)]
    assert torch.equal(*moments)
    assert not torch.equal(stored_rows(cache), stored_rows(home / "cache"))


# What is made of it


@pytest.fixture(scope="module")
def trained(home: Path) -> Path:
    """A run of latents with a scale and shift of its own. Not to be changed."""
    config = latent_run(home / KIND, latents={"scale": 0.7, "shift": 0.1})
    train_run(config, home / "src", home / "run", latents=home / "cache")
    return home / "run"


def test_a_run_says_what_it_learned(home: Path, trained: Path) -> None:
    manifest = json.loads((home / "cache" / "manifest.json").read_text())
    config = latent_run(home / KIND)
    assert config.latents is not None
    digest = load_autoencoder(config.latents).digest
    record = json.loads((trained / "run.json").read_text())["data"]
    assert record == {**find_checkpoints(trained)[-1].state["data"]}
    assert record["shape"] == [4, 4, 4]
    assert record["latents"] == {"autoencoder": digest, "scale": 0.7, "shift": 0.1}
    assert manifest["encoder"]["class"] == KIND


def test_a_run_of_pixels_says_its_shape(home: Path, tmp_path: Path) -> None:
    train_run(small_run(images=16), home / "src", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (record["shape"], record["latents"]) == ([3, 8, 8], None)


def test_a_run_opens_with_diffusers_and_decodes(trained: Path) -> None:
    """In an environment that has no corruptkit; the decoder is in the folder, with the run's own scale and shift."""
    code = (
        "import sys; sys.modules['corruptkit'] = sys.modules['corruptkit_train'] = None\n"
        "import torch\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(trained / 'pipeline')!r}, trust_remote_code=True)\n"
        "how = dict(class_labels=[0, 3], num_inference_steps=2, guidance_scale=2.0, seeds=[0, 1])\n"
        "latents = pipe(**how, output_type='latent').images\n"
        "images = pipe(**how, output_type='pt').images\n"
        "apart = (pipe.vae.decode(latents / 0.7 + 0.1).sample / 2 + 0.5).clamp(0, 1) - images\n"
        "print(type(pipe.vae).__name__, tuple(images.shape), float(apart.abs().max()) < 1e-6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.strip() == "AutoencoderKL (2, 3, 32, 32) True", done.stderr


def test_grids_are_pixels(trained: Path) -> None:
    (file,) = (trained / "samples").iterdir()
    with Image.open(file) as grid:
        assert grid.size == (8 * 34 - 2, 4 * 34 - 2)
        assert grid.mode == "RGB"


def test_samples_are_decoded_and_name_the_autoencoder(trained: Path, tmp_path: Path) -> None:
    words = ("sample", trained, "--count", 4, "--scale", "1,2", "--format", "npz")
    assert call(*words, "--out", tmp_path / "samples").status == 0
    manifest = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert manifest["autoencoder"] == find_checkpoints(trained)[-1].state["data"]["latents"]["autoencoder"]
    images = np.load(tmp_path / "samples" / "s2" / "samples.npz")["arr_0"]
    assert images.shape == (4, 32, 32, 3)
    assert images.std() > 1
    run = trained / "run.json"
    model = open_model(RunConfig.model_validate(json.loads(run.read_text())["config"]), find_checkpoints(trained)[-1])
    assert model.autoencoder is not None
    latent = torch.zeros(1, 2, 4, 4, 4)
    assert torch.equal(decode_samples(model, latent)[0], model.autoencoder.decode(latent[0]))


def test_samples_by_another_decoder_are_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((run / "run.json").read_text())["config"]
    place = Path(config["latents"]["autoencoder"])
    kept = shutil.copytree(place, tmp_path / "kept")
    try:
        save_autoencoder(place, KIND, seed=1)
        said = call("sample", run, "--count", 1, "--out", tmp_path / "samples")
    finally:
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    assert said.status == 2
    assert "with which the run was trained; put back the files of training" in said.problems[0]
    assert not (tmp_path / "samples").exists()


def test_no_step_waits_for_latents(home: Path, config: RunConfig, tmp_path: Path) -> None:
    """No image is decoded while a run trains: neither Pillow nor the source's rows are asked for anything."""
    source = shutil.copytree(home / "src", tmp_path / "src")
    cache = shutil.copytree(home / "cache", tmp_path / "cache")
    open_latents(config, source, cache)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("row", "rows", "samples", "batches"):
            patch.setattr(ck.Dataset, name, None)
        patch.setattr(Image, "open", None)
        train_run(config, source, tmp_path / "run", latents=cache, images=32)
