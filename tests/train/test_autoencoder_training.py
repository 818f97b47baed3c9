"""An autoencoder's training: resumed is as if never stopped, what is held out is not seen, and what comes out opens with diffusers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import corruptkit as ck
from corruptkit_train import autoencoder_training as module
from corruptkit_train.autoencoder_training import (
    AutoencoderRun,
    compare_scales,
    load_autoencoder_run,
    make_network,
    measure_losses,
    measure_psnr,
    train_autoencoder,
)
from corruptkit_train.autoencoders import AutoencoderConfig, load_autoencoder
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.cli import main
from corruptkit_train.config import parse_stated, presets
from corruptkit_train.images import ImageConfig, Pictures
from tests.corruptkit.shards import Row, write_shards
from tests.train.networks import draw_some
from tests.train.small import SIDE, picture, write_pictures
from tests.train.test_run import finish, saved

COUNT = 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order: with two threads they may be split otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src", COUNT)


def small_training(**changes: Any) -> AutoencoderRun:
    """An autoencoder of 8 x 8 pixels, batches of 8; `changes` are whole tables or fields."""
    table: dict[str, Any] = {
        "images": 64,
        "hold_out": 5,
        "data": {"size": SIDE, "flip": True},
        "network": {"width": 8, "blocks": (0, 1, 1)},
        "optimiser": {"rate": 1e-3, "batch": 8},
        "machine": {"report": 2},
    }
    for name, value in changes.items():
        table[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
    return parse_stated(AutoencoderRun, table, "test")


def write_training(file: Path, **changes: Any) -> Path:
    file.write_text(json.dumps({"config": small_training(**changes).model_dump(mode="json")}))
    return file


def weights_of(out: Path) -> bytes:
    return (out / "autoencoder" / "diffusion_pytorch_model.safetensors").read_bytes()


def read_lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("crop", ["center", "random"])
def test_half_and_half_is_whole(source: Path, tmp_path: Path, crop: str) -> None:
    """N images straight are N/2, an end, and N/2 more, to the bit: checkpoint, log, and what diffusers opens."""
    config = small_training(data={"crop": crop})
    whole = train_autoencoder(config, source, tmp_path / "whole")
    train_autoencoder(config, source, tmp_path / "halves", images=32)
    assert weights_of(tmp_path / "whole") != weights_of(tmp_path / "halves")
    other = config.model_copy(update={"machine": config.machine.model_copy(update={"hold": 0, "save": 16})})
    halves = train_autoencoder(other, source, tmp_path / "halves")
    assert saved(tmp_path / "whole", 64) == saved(tmp_path / "halves", 64)
    assert weights_of(tmp_path / "whole") == weights_of(tmp_path / "halves")
    assert (whole["psnr"], whole["scale"], whole["shift"]) == (halves["psnr"], halves["scale"], halves["shift"])
    assert read_lines(tmp_path / "whole") == read_lines(tmp_path / "halves")
    assert [line["images"] for line in read_lines(tmp_path / "whole")] == [16, 32, 48, 64]
    again = train_autoencoder(config, source, tmp_path / "whole")
    assert again == whole


def test_a_stopped_command_goes_on_as_if_it_had_not_been(source: Path, tmp_path: Path) -> None:
    file = write_training(tmp_path / "run.json", images=8000)
    line = [sys.executable, "-m", "corruptkit_train", "autoencoder", str(file), "--data", str(source), "--out", str(tmp_path / "out")]
    how: dict[str, Any] = {"text": True, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 130
    (stopped,) = find_checkpoints(tmp_path / "out")
    assert 0 < stopped.images < 8000
    assert not (tmp_path / "out" / "autoencoder").exists()
    done = stopped.images + 16
    assert subprocess.run([*line, "--images", str(done)], capture_output=True, check=False, **how).returncode == 0
    train_autoencoder(small_training(images=8000), source, tmp_path / "straight", images=done)
    assert saved(tmp_path / "out", done) == saved(tmp_path / "straight", done)


def test_the_folder_opens_with_diffusers_and_is_scaled(source: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    config = small_training()
    record = train_autoencoder(config, source, tmp_path / "out")
    folder = tmp_path / "out" / "autoencoder"
    loaded = load_autoencoder(AutoencoderConfig(autoencoder=str(folder)))
    assert (loaded.factor, loaded.channels, loaded.latent_shape(SIDE)) == (4, 4, (4, 2, 2))
    assert (loaded.scale, loaded.shift) == (record["scale"], record["shift"])
    rows = torch.tensor([row for row in range(COUNT) if row % 5])
    pixels, _ = Pictures(ck.open_dataset(source), config.data).load(rows, rows, config.seed)
    latents = (loaded.encode(pixels)[0] - loaded.shift) * loaded.scale
    torch.testing.assert_close(torch.stack([latents.mean(), latents.std()]), torch.tensor([0.0, 1.0]), atol=1e-4, rtol=1e-4)
    average = find_checkpoints(tmp_path / "out")[-1].tensors("average")
    assert all(torch.equal(weight, average[name]) for name, weight in AutoencoderTiny.from_pretrained(folder).named_parameters())
    held_out = Pictures(ck.open_dataset(source), ImageConfig(size=SIDE)).load(torch.arange(0, COUNT, 5), torch.arange(7), 0)[0]
    made = loaded.decode((loaded.encode(held_out)[0] - loaded.shift) * loaded.scale)
    assert measure_psnr(((made + 1) * 127.5).round().to(torch.uint8), held_out) == pytest.approx(record["psnr"], abs=0.05)
    said = json.loads((folder / "training.json").read_text())
    assert said["data"]["fingerprint"] == ck.open_dataset(source).index().meta.fingerprint
    assert said["run"] == config.digest()


def test_what_is_held_out_is_not_trained_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set[int]()

    def watch(config: AutoencoderRun, network: Any, pixels: torch.Tensor, numbers: torch.Tensor) -> Any:
        flat = {image.tobytes(): row for row, image in enumerate(everything.numpy())}
        seen.update(flat[image.tobytes()] for image in pixels.numpy())
        return measure_losses(config, network, pixels, numbers)

    everything = Pictures(ck.open_dataset(source), ImageConfig(size=SIDE)).load(torch.arange(COUNT), torch.arange(COUNT), 0)[0]
    monkeypatch.setattr(module, "measure_losses", watch)
    record = train_autoencoder(small_training(data={"flip": False}), source, tmp_path / "out")
    assert seen == {row for row in range(COUNT) if row % 5}
    assert record["data"]["held_out"] == 7


def test_in_the_place_of_a_bad_image_there_is_none_that_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    counts = list[int]()

    def watch(config: AutoencoderRun, network: Any, pixels: torch.Tensor, numbers: torch.Tensor) -> Any:
        counts.append(len(pixels))
        return measure_losses(config, network, pixels, numbers)

    monkeypatch.setattr(module, "measure_losses", watch)
    rows = [Row(f"{i:05d}", i % 4, f"picture {i}", b"no image" if i in (4, 10) else picture(i)) for i in range(COUNT)]
    write_shards(tmp_path / "bad", rows, members=("png", "txt", "cls"))
    whole = train_autoencoder(small_training(images=200, data={"bad": "exclude"}), source, tmp_path / "whole")
    assert set(counts) == {8}
    counts.clear()
    record = train_autoencoder(small_training(images=200, data={"bad": "exclude"}), tmp_path / "bad", tmp_path / "out")
    assert sum(counts) == 200 - 8  # of 25 rows in 8 epochs, row 4 would be row 5
    assert (whole["data"]["held_out"], record["data"]["held_out"]) == (7, 6)  # row 10 would be row 11


def test_it_learns(source: Path, tmp_path: Path) -> None:
    config = small_training(images=4800, optimiser={"rate": 3e-3}, network={"width": 16})
    first = train_autoencoder(config, source, tmp_path / "out", images=8)["psnr"]
    last = train_autoencoder(config, source, tmp_path / "out")["psnr"]
    assert last > first + 5
    losses = [line["loss"] for line in read_lines(tmp_path / "out")]
    assert losses[-1] < losses[0] / 2


def test_a_grid_shows_originals_over_what_comes_back(source: Path, tmp_path: Path) -> None:
    train_autoencoder(small_training(machine={"sample": 32}), source, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out" / "grids").iterdir()) == ["000000000032.png", "000000000064.png"]
    sheet = np.asarray(Image.open(tmp_path / "out" / "grids" / "000000000064.png"))
    assert sheet.shape == (2 * SIDE + 2, 16 * (SIDE + 2) - 2, 3)
    held_out = Pictures(ck.open_dataset(source), ImageConfig(size=SIDE)).load(torch.arange(0, COUNT, 5), torch.arange(7), 0)[0]
    for place, image in enumerate(held_out.numpy()):
        left = place * (SIDE + 2)
        assert (sheet[:SIDE, left : left + SIDE] == image.transpose(1, 2, 0)).all()
        assert not (sheet[SIDE + 2 :, left : left + SIDE] == 255).all()
    assert (sheet[:, 7 * (SIDE + 2) :] == 255).all()


def test_slopes_and_scales_are_what_they_say() -> None:
    clean, made = draw_some((2, 3, 8, 8)), draw_some((2, 3, 8, 8), start=9)
    pixel, slope, square, expected = 0.0, 0.0, 0.0, (clean, made)
    for _ in range(3):
        one, other = (part.double().numpy() for part in expected)
        pixel += float(np.abs(one - other).mean()) / 3
        square += float(np.square(one - other).mean()) / 3
        slope += sum(float(np.abs(np.diff(one, axis=axis) - np.diff(other, axis=axis)).mean()) for axis in (2, 3)) / 3
        expected = tuple(part.view(*part.shape[:2], part.shape[2] // 2, 2, part.shape[3] // 2, 2).mean(dim=(3, 5)) for part in expected)
    found = compare_scales(made - clean, 3)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {"pixel": pixel, "slope": slope, "square": square}, rel=1e-5
    )


def test_the_loss_has_its_parts_and_noise_by_number() -> None:
    config = small_training(loss={"edges": 2.0, "squares": 3.0, "prior": 0.5, "noise": 0.3, "scales": 2})
    network, pixels = make_network(config), torch.arange(4 * 3 * SIDE * SIDE).remainder(251).to(torch.uint8).view(4, 3, SIDE, SIDE)
    found = measure_losses(config, network, pixels, torch.arange(4))
    parts = {name: float(value.detach()) for name, value in found.items()}
    expected = parts["pixel"] + 2 * parts["slope"] + 3 * parts["square"] + 0.5 * parts["size"]
    assert parts["loss"] == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        assert float(measure_losses(config, network, pixels, torch.arange(4))["loss"]) == parts["loss"]
        assert float(measure_losses(config, network, pixels, torch.arange(4, 8))["loss"]) != parts["loss"]
        quiet = small_training(loss={"noise": 0.0})
        one, other = (measure_losses(quiet, network, pixels, torch.arange(first, first + 4)) for first in (0, 4))
        assert float(one["loss"]) == float(other["loss"])


def test_psnr_is_that_of_its_definition() -> None:
    pixels = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    made = pixels.clone()
    made[0] += 5
    made[1] -= 51
    assert measure_psnr(made, pixels) == pytest.approx((20 * np.log10(255 / 5) + 20 * np.log10(5)) / 2)
    assert np.isfinite(measure_psnr(pixels, pixels))


def test_first_weights_are_a_function_of_the_seed() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (make_network(small_training(seed=seed)).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["encoder.layers.0.weight"], other["encoder.layers.0.weight"])


def refusal(error: type[ck.CorruptkitError], config: AutoencoderRun, data: Path, out: Path, **how: Any) -> str:
    with pytest.raises(error) as found:
        train_autoencoder(config, data, out, **how)
    words = str(found.value)
    assert "\n" not in words
    return words


def test_a_loss_that_is_no_number_ends_it(source: Path, tmp_path: Path) -> None:
    config = small_training(optimiser={"rate": 1e30, "clip": 0}, machine={"save": 8})
    words = refusal(ck.IntegrityError, config, source, tmp_path / "out")
    assert "is nan within the " in words
    assert "resume from the last checkpoint" in words
    for checkpoint in find_checkpoints(tmp_path / "out"):
        assert all(tensor.isfinite().all() for tensor in checkpoint.tensors("weights").values())
    assert not (tmp_path / "out" / "autoencoder").exists()


def test_another_training_in_the_folder_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train_autoencoder(small_training(), source, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "the run's loss.edges is 2.0, expected 1.0, as it was begun" in refusal(
        ck.ConflictError, small_training(loss={"edges": 2.0}), source, out
    )
    assert "the data's fingerprint is " in refusal(ck.ConflictError, small_training(), write_pictures(tmp_path / "more", 40), out)
    assert "--images: found 32" in refusal(ck.CatalogError, small_training(), source, out, images=32)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_other_images_under_the_same_captions_are_refused(source: Path, tmp_path: Path) -> None:
    train_autoencoder(small_training(), source, tmp_path / "out")
    rows = [Row(f"{i:05d}", i % 4, f"picture {i}", picture(i + 1)) for i in range(COUNT)]
    write_shards(tmp_path / "other", rows, members=("png", "txt", "cls"))
    assert ck.open_dataset(tmp_path / "other").index().meta.fingerprint == ck.open_dataset(source).index().meta.fingerprint
    assert "the data's held_out_sha256 is " in refusal(ck.ConflictError, small_training(), tmp_path / "other", tmp_path / "out")


def test_several_processes_are_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = refusal(ck.CatalogError, small_training(), source, tmp_path / "out")
    assert words == "WORLD_SIZE: found 2 processes, expected one: an autoencoder is trained by one; start it without a launcher"
    assert not (tmp_path / "out").exists()


def test_one_row_is_too_few(tmp_path: Path) -> None:
    words = refusal(ck.DatasetError, small_training(), write_pictures(tmp_path / "src", 1, 1), tmp_path / "out")
    assert words.endswith("1 rows, of which 1 is held out, expected rows to train on; name a larger data set")
    assert not (tmp_path / "out").exists()


def test_held_out_images_of_which_none_can_be_decoded_are_refused(tmp_path: Path) -> None:
    rows = [Row(f"{i:05d}", i % 4, "x", picture(i) if i % 5 else b"nothing") for i in range(20)]
    write_shards(tmp_path / "bad", rows, members=("png", "cls"))
    with pytest.raises(ck.DatasetError, match="none of 4 images that are held out can be decoded, expected images to measure on"):
        train_autoencoder(small_training(data={"bad": "exclude"}), tmp_path / "bad", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_has_the_images_of_its_source(source: Path, tmp_path: Path) -> None:
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.25")]), dataset.index())
    ck.write_variant(dataset, plan, tmp_path / "flipped", "overlay")
    clean = train_autoencoder(small_training(), source, tmp_path / "clean")
    flipped = train_autoencoder(small_training(), tmp_path / "flipped", tmp_path / "other")
    assert flipped["data"]["variant_id"] != clean["data"]["variant_id"] == ""
    assert weights_of(tmp_path / "clean") == weights_of(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 60}, "found images = 60, expected a multiple of optimiser.batch = 8"),
        ({"data": {"size": 10}}, "found data.size = 10, expected a multiple of 4, as network.blocks and loss.scales divide it"),
        ({"data": {"channels": 1}}, "found data.channels = 1, expected 3: autoencoders are of colours"),
        ({"network": {"blocks": ()}}, "network.blocks"),
        ({"network": {"blocks": (-1, 1)}}, "network.blocks.0"),
        ({"loss": {"scale": 1}}, "did you mean 'scales'"),
        ({"hold_out": 1}, "hold_out"),
    ],
)
def test_fields_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ck.CatalogError) as found:
        small_training(**changes)
    assert said in str(found.value)


def test_presets_of_autoencoders_and_of_runs_are_apart() -> None:
    assert "autoencoder-openmoji" in presets("autoencoder")
    assert not any(name.startswith("autoencoder-") for name in presets())
    assert not presets("autoencoder").keys() & presets().keys()
    for name in presets("autoencoder"):
        config = load_autoencoder_run(name, ["loss.edges=0.5"])
        assert config.loss.edges == 0.5
        assert 250_000 < sum(weight.numel() for weight in make_network(config).parameters()) < 400_000
    with pytest.raises(ck.CatalogError, match="no such preset"):
        load_autoencoder_run("laptop-openmoji-text", [])


def test_the_command_says_what_was_measured(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["autoencoder", write_training(tmp_path / "run.json"), "--data", source, "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 0
    out = capsys.readouterr().out
    assert f"trained   {tmp_path / 'out'}  64 images, " in out
    assert " dB over 7 images held out, scale " in out
    assert main([*map(str, words), "--json", "--images", "72"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"]["images"] == 72
    assert found["run"]["data"]["held_out"] == 7
    stated = json.loads((tmp_path / "out" / "autoencoder" / "config.json").read_text())
    assert (stated["scaling_factor"], stated["shift_factor"]) == (found["run"]["scale"], found["run"]["shift"])


def test_what_a_command_cannot_do_is_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: object) -> str:
        assert main([*map(str, words), "--out", str(tmp_path / "out")]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("decode")]
        assert not (tmp_path / "out").exists()
        return line

    run = write_training(tmp_path / "run.json")
    assert "found images = 60, expected a multiple of optimiser.batch = 8" in said("autoencoder", run, "--data", source, "--images", "60")
    assert "no such preset" in said("autoencoder", "autoencoder-openmojo", "--data", source)
    assert "no such preset" in said("run", "autoencoder-openmoji", "--data", source)
    assert "is no variant, expected the source of an overlay; leave it out" in said(
        "autoencoder", run, "--data", source, "--source", source
    )
    pictures = write_shards(tmp_path / "blind", [Row("a", 0, "a", picture(1)), Row("b", 1, "b", picture(2))], members=("txt", "cls"))
    assert "a row without an image" in said("autoencoder", run, "--data", pictures)
