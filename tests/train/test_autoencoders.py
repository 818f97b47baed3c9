"""Autoencoders: moments depend on the image alone, the digest on all that decides them, and what is missing is told in one line."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

import corruptkit as ck
from corruptkit_train import autoencoders
from corruptkit_train.autoencoders import Autoencoder, AutoencoderConfig, load_autoencoder
from corruptkit_train.draws import draw_words
from tests.train.networks import save_autoencoder

KINDS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
FACTORS = {"AutoencoderKL": 8, "AutoencoderTiny": 4, "VQModel": 4}
COUNT = 11
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An autoencoder of each class. Not to be changed."""
    home = tmp_path_factory.mktemp("autoencoders")
    return {kind: save_autoencoder(home / kind, kind) for kind in KINDS}


def draw_pixels(count: int = COUNT, size: int = 32) -> torch.Tensor:
    return draw_words(0, "noise", torch.arange(count), 3 * size * size).remainder(256).to(torch.uint8).view(count, 3, size, size)


def load_small(folder: Path, **fields: Any) -> Autoencoder:
    return load_autoencoder(AutoencoderConfig(autoencoder=str(folder), **fields))


def change_json(folder: Path, **fields: Any) -> Path:
    """Fields of a config.json in place of others; None takes one away."""
    file = folder / "config.json"
    table = {name: value for name, value in (json.loads(file.read_text()) | fields).items() if value is not None}
    file.write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_images_moments_are_the_same_bits_in_every_batch(folders: dict[str, Path], kind: str) -> None:
    loaded, pixels = load_small(folders[kind]), draw_pixels()
    moments = loaded.encode(pixels)
    backwards = loaded.encode(pixels.flip(0))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        threads = loaded.encode(pixels)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    for part, turned, other in zip(moments, backwards, threads, strict=True):
        if part is None:
            assert kind != "AutoencoderKL"
            assert turned is other is None
            continue
        assert torch.equal(turned.flip(0), part)
        assert torch.equal(other, part)
    for row in (0, 5, COUNT - 1):
        alone = loaded.encode(pixels[row : row + 1])
        assert all(part is None or torch.equal(own[0], part[row]) for own, part in zip(alone, moments, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_gpus_size_are_filled_and_change_nothing_that_is_seen(
    folders: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, pixels = load_small(folders[kind]), draw_pixels()
    mean, images = loaded.encode(pixels)[0], loaded.decode(loaded.encode(pixels)[0])
    monkeypatch.setattr(autoencoders, "count_rows", lambda _: 8)
    torch.testing.assert_close(loaded.encode(pixels)[0], mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loaded.decode(mean), images, atol=1e-5, rtol=1e-4)
    sizes = list[int]()
    monkeypatch.setattr(loaded.model, "encode", lambda part, real=loaded.model.encode: (sizes.append(len(part)), real(part))[1])
    loaded.encode(pixels)
    assert sizes == [8, 8]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_and_images_are_those_of_diffusers(folders: dict[str, Path], kind: str) -> None:
    import diffusers

    model = getattr(diffusers, kind).from_pretrained(folders[kind]).eval()
    loaded, pixels = load_small(folders[kind], scale=0.5, shift=0.25), draw_pixels()
    mean, deviation = loaded.encode(pixels)
    with torch.inference_mode():
        found = model.encode(pixels.float() / 127.5 - 1)
        expected = found.latent_dist.mean if kind == "AutoencoderKL" else found.latents
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-4)
        if kind == "AutoencoderKL":
            torch.testing.assert_close(deviation, found.latent_dist.std, atol=1e-5, rtol=1e-4)
        decoded = model.decode(mean).sample.clamp(-1, 1)
    torch.testing.assert_close(loaded.decode((mean - 0.25) * 0.5), decoded, atol=1e-4, rtol=1e-4)
    assert mean.dtype == torch.float32
    assert mean.shape == (COUNT, *loaded.latent_shape(32))
    assert loaded.decode(mean).shape == (COUNT, 3, 32, 32)
    assert float(loaded.decode(mean * 100).abs().max()) <= 1


def test_a_vqmodel_encodes_before_quantisation_and_decodes_after_it(folders: dict[str, Path]) -> None:
    loaded = load_small(folders["VQModel"])
    mean, none = loaded.encode(draw_pixels())
    assert none is None
    codes = loaded.model.quantize(mean)[0]
    assert not torch.allclose(codes, mean, atol=1e-4), "the output before quantisation is no code"
    torch.testing.assert_close(loaded.decode(mean), loaded.decode(codes), atol=1e-5, rtol=1e-4)
    raw = loaded.model.decode(mean, force_not_quantize=True).sample
    assert not torch.allclose(loaded.decode(mean), raw.clamp(-1, 1), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_follow_the_factor(folders: dict[str, Path], kind: str) -> None:
    loaded = load_small(folders[kind])
    assert (loaded.factor, loaded.latent_shape(64)) == (FACTORS[kind], (loaded.channels, 64 // FACTORS[kind], 64 // FACTORS[kind]))
    assert loaded.encode(draw_pixels(0))[0].shape == (0, *loaded.latent_shape(32))
    assert loaded.decode(torch.zeros(0, *loaded.latent_shape(32))).shape == (0, 3, 32, 32)
    with pytest.raises(ck.CatalogError) as found:
        loaded.latent_shape(50)
    expected = f"images of 50 pixels a side, expected a multiple of {FACTORS[kind]}, by which the autoencoder divides it"
    assert str(found.value) == f"{folders[kind]}: {expected}; change data.size"


def test_scale_and_shift_are_the_configs_unless_told(folders: dict[str, Path], tmp_path: Path) -> None:
    assert (load_small(folders["AutoencoderKL"]).scale, load_small(folders["AutoencoderKL"]).shift) == (0.18215, 0.0)
    stated = save_autoencoder(tmp_path / "kl", scaling_factor=0.3611, shift_factor=0.1159)  # Flux's
    assert (load_small(stated).scale, load_small(stated).shift) == (0.3611, 0.1159)
    told = load_small(stated, scale=2.0, shift=-1.0)
    assert (told.scale, told.shift) == (2.0, -1.0)
    assert load_small(stated, scale=2.0).shift == 0.1159
    old = change_json(save_autoencoder(tmp_path / "old"), scaling_factor=None)  # as sd-vae was published
    assert load_small(old).scale == 0.18215


def test_a_vqmodel_that_states_no_scale_has_none(folders: dict[str, Path], tmp_path: Path) -> None:
    assert json.loads((folders["VQModel"] / "config.json").read_text())["scaling_factor"] == 0.18215  # diffusers' default, written down
    assert load_small(folders["VQModel"]).scale == 1.0
    assert load_small(change_json(save_autoencoder(tmp_path / "old", "VQModel"), scaling_factor=None)).scale == 1.0
    assert load_small(save_autoencoder(tmp_path / "stated", "VQModel", scaling_factor=0.5)).scale == 0.5
    assert load_small(folders["VQModel"], scale=0.18215).scale == 0.18215


def test_one_number_a_channel_is_refused_unless_told_another(tmp_path: Path) -> None:
    folder = save_autoencoder(tmp_path / "kl", latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0))
    expected = f"{folder}: it states latents_mean, a number a channel, expected one scale and one shift; state scale and shift"
    assert refusal(ck.DatasetError, folder) == expected
    assert load_small(folder, scale=1.0, shift=0.0).scale == 1.0


@pytest.mark.parametrize("field", [{"scale": 0}, {"scale": float("inf")}, {"shift": float("nan")}, {"autoencoder": ""}, {"other": 1}])
def test_fields_that_make_no_sense_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AutoencoderConfig.model_validate({"autoencoder": "x"} | field)


@pytest.mark.parametrize("kind", KINDS)
def test_a_digest_names_all_that_decides_moments_and_nothing_else(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    digest = load_small(folders[kind]).digest
    moved = shutil.copytree(folders[kind], tmp_path / "pipeline" / "vae")
    change_json(moved, scaling_factor=0.7, _name_or_path="elsewhere", _diffusers_version="0.1.0", force_upcast=None, sample_size=None)
    assert load_small(moved).digest == digest
    assert load_small(tmp_path / "pipeline", subfolder="vae").digest == digest
    assert load_small(moved, scale=3.0, shift=1.0).digest == digest
    others = [load_small(save_autoencoder(tmp_path / "seed", kind, seed=1)).digest]
    weights = load_file(moved / WEIGHTS)
    name = min(weights)
    save_file({**weights, name: torch.nextafter(weights[name], weights[name] + 1)}, moved / WEIGHTS)
    others.append(load_small(moved).digest)
    others.append(load_small(change_json(shutil.copytree(folders[kind], tmp_path / "act"), act_fn="gelu")).digest)
    assert len({digest, *others}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stored_in_half_precision_are_float32_here(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    half = shutil.copytree(folders[kind], tmp_path / "half")
    weights = {name: tensor.half() for name, tensor in load_file(half / WEIGHTS).items()}
    save_file(weights, half / WEIGHTS, {"format": "pt"})
    loaded = load_small(half)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    assert loaded.encode(draw_pixels())[0].dtype == torch.float32
    full = shutil.copytree(half, tmp_path / "full")
    save_file({name: tensor.float() for name, tensor in weights.items()}, full / WEIGHTS, {"format": "pt"})
    assert load_small(full).digest == loaded.digest != load_small(folders[kind]).digest


def test_weights_in_several_files_are_those_in_one(folders: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL.from_pretrained(folders["AutoencoderKL"]).save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_small(tmp_path).digest == load_small(folders["AutoencoderKL"]).digest


def test_attention_under_its_old_names_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """As sd-vae was published first: names of diffusers before 0.13."""
    old = shutil.copytree(folders["AutoencoderKL"], tmp_path / "old")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(old / WEIGHTS)
    for new, before in names.items():
        weights = {name.replace(f"attentions.0.{new}", f"attentions.0.{before}"): tensor for name, tensor in weights.items()}
    assert any("attentions.0.proj_attn" in name for name in weights)
    save_file(weights, old / WEIGHTS, {"format": "pt"})
    assert load_small(old).digest == load_small(folders["AutoencoderKL"]).digest


def test_an_autoencoder_learns_nothing(folders: dict[str, Path]) -> None:
    loaded = load_small(folders["AutoencoderKL"])
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training
    assert not loaded.encode(draw_pixels())[0].requires_grad


def refusal(error: type[ck.CorruptkitError], folder: object, **fields: Any) -> str:
    with pytest.raises(error) as found:
        load_autoencoder(AutoencoderConfig(autoencoder=str(folder), **fields))
    words = str(found.value)
    assert "\n" not in words
    return words


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    expected = "there is no such folder, expected a folder of an autoencoder; mend the path, or name a repository as OWNER/NAME"
    for name in (f"{tmp_path}/nowhere", "./nowhere", "~/nowhere/at/all", "models/that/are/nowhere", "nowhere"):
        assert refusal(ck.DatasetError, name) == f"{name}, autoencoder: {expected}"
    file = tmp_path / "a file"
    file.touch()
    assert refusal(ck.DatasetError, file) == f"{file}, autoencoder: {expected}"


def test_a_repository_that_is_not_here_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    words = refusal(ck.DatasetError, "someone/an-autoencoder-that-is-nowhere", subfolder="vae")
    assert words.startswith("someone/an-autoencoder-that-is-nowhere: no autoencoder could be loaded: ")
    assert words.endswith("expected weights in safetensors with their config.json; give the folder of one that is there")


def test_what_a_folder_lacks_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = shutil.copytree(folders["VQModel"], tmp_path / "bare")
    (bare / WEIGHTS).unlink()
    expected = f"{bare / WEIGHTS}: it is not there, expected the autoencoder's weights; put its weights there"
    assert refusal(ck.DatasetError, bare) == expected
    (bare / "config.json").unlink()
    expected = f"{bare / 'config.json'}: it is not there, expected an autoencoder's config.json; name the folder of an autoencoder"
    assert refusal(ck.DatasetError, bare) == expected
    (bare / "model_index.json").write_text("{}")
    assert refusal(ck.DatasetError, bare).endswith("; state its subfolder, such as vae")
    assert f"{bare / 'vae' / 'config.json'}: it is not there" in refusal(ck.DatasetError, bare, subfolder="vae")


def test_a_pickle_is_never_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["AutoencoderKL"], tmp_path / "pickled")
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert refusal(ck.DatasetError, folder) == (
        f"{folder / WEIGHTS}: it is not there, but diffusion_pytorch_model.bin, expected the autoencoder's weights; "
        "save the autoencoder anew with diffusers: its safetensors run no code"
    )


def test_another_class_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = change_json(shutil.copytree(folders["AutoencoderKL"], tmp_path / "other"), _class_name="AutoencoderDC")
    assert refusal(ck.DatasetError, folder) == (
        f"{folder}: no autoencoder could be loaded: it is of class AutoencoderDC, expected one of AutoencoderKL, AutoencoderTiny, "
        "VQModel; give the folder of one that is there"
    )
    assert "it is of class None" in refusal(ck.DatasetError, change_json(folder, _class_name=None))
    grey = save_autoencoder(tmp_path / "grey", in_channels=1, out_channels=1)
    assert "it turns 1 channels into 1, expected 3 channels into 3" in refusal(ck.DatasetError, grey)


def test_weights_of_another_network_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    fewer = shutil.copytree(folders["AutoencoderTiny"], tmp_path / "fewer")
    weights = load_file(fewer / WEIGHTS)
    name = "encoder.layers.0.weight"
    save_file({key: tensor for key, tensor in weights.items() if key != name}, fewer / WEIGHTS, {"format": "pt"})
    assert f"1 weights are not in its files, such as {name}" in refusal(ck.DatasetError, fewer)
    wider = change_json(shutil.copytree(folders["AutoencoderTiny"], tmp_path / "wider"), latent_channels=5)
    assert "no autoencoder could be loaded: " in refusal(ck.DatasetError, wider)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_file_that_is_broken_is_told_in_one_line(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(folders["AutoencoderTiny"], tmp_path / "broken")
    (folder / name).write_bytes(b"{ this is no file of a model")
    assert "no autoencoder could be loaded: " in refusal(ck.DatasetError, folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_moments_that_are_no_numbers_are_refused(folders: dict[str, Path], tmp_path: Path, bad: float) -> None:
    folder = shutil.copytree(folders["AutoencoderTiny"], tmp_path / "nan")
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "encoder.layers.0.bias": torch.full((8,), bad)}, folder / WEIGHTS, {"format": "pt"})
    loaded = load_small(folder)
    with pytest.raises(ck.IntegrityError) as found:
        loaded.encode(draw_pixels())
    said = f"moments that are no numbers, first of image 0 of {COUNT}, expected finite ones; use weights that are sound"
    assert str(found.value) == f"{folder}: {said}"
