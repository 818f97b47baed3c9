"""The authors' three layouts, written here by diffusers' own classes with small random weights, open and make their pipelines' images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, UNet2DConditionModel, VQModel
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

import corruptkit as ck
from corruptkit_train.conditions import Condition
from corruptkit_train.models.convert import to_stock
from corruptkit_train.models.unet import UNet
from corruptkit_train.objectives import Noise
from corruptkit_train.pipelines import ConditionalPipeline, open_released
from corruptkit_train.sampling import SamplerConfig, Trained, sample_latents
from tests.train.networks import build_kind, draw_some, save_autoencoder, wake_weights

torch.set_num_threads(1)
# As published: the betas of scaled_linear, each written down.
BETAS = (torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2).tolist()
LDM = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
SCALE = 0.5  # of the autoencoder's config, where the pipeline of text reads it and that of classes does not


def write_ldm(home: Path, kind: str, width: int, parts: dict[str, list[str]]) -> None:
    sizes = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 1}
    shape = {"sample_size": 8, "in_channels": 3, "out_channels": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        wake_weights(UNet2DConditionModel(**shape, **LDM, **sizes, cross_attention_dim=width)).save_pretrained(home / "unet")
    save_autoencoder(home / "vqvae", "VQModel", scaling_factor=SCALE)
    DDIMScheduler(1000, trained_betas=BETAS, clip_sample=False).save_pretrained(home / "scheduler")
    index = {"_class_name": kind, "_diffusers_version": "0.27.0.dev0", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vqvae": ["diffusers", "VQModel"], **parts}
    (home / "model_index.json").write_text(json.dumps(index))


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    home = tmp_path / "classes"
    write_ldm(home, "LDMClassToImagePipeline", 24, {"class_embedder": ["latent_diffusion", "ClassEmbedder"]})
    (home / "class_embedder").mkdir()
    stated = {"_class_name": "ClassEmbedder", "_diffusers_version": "0.27.0.dev0", "n_classes": 5, "embed_dim": 24}
    (home / "class_embedder" / "config.json").write_text(json.dumps(stated))
    save_file({"embedding.weight": draw_some((5, 24))}, home / "class_embedder" / "diffusion_pytorch_model.safetensors")
    return home


@pytest.fixture
def texts(tmp_path: Path, tiny: Path) -> Path:
    home = tmp_path / "texts"
    write_ldm(home, "LDMTextToImagePipeline", 32, {"bert": ["transformers", "BertModel"], "tokenizer": ["transformers", "BertTokenizer"]})
    stated = BertModel.from_pretrained(tiny).config
    stated.max_position_embeddings = 77
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        BertModel(stated).save_pretrained(home / "bert")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(home / "tokenizer")
    return home


def their_images(home: Path, states: torch.Tensor, null: torch.Tensor, noise: torch.Tensor, *, scale: float, divide: float) -> torch.Tensor:
    """What their pipelines do, with diffusers' classes: guided DDIM in 3 steps, and the decoder."""
    unet, autoencoder = UNet2DConditionModel.from_pretrained(home / "unet").eval(), VQModel.from_pretrained(home / "vqvae").eval()
    scheduler = DDIMScheduler.from_pretrained(home / "scheduler")
    scheduler.set_timesteps(3)
    sample = noise
    with torch.no_grad():
        for step in scheduler.timesteps:
            free, told = (unet(sample, step, encoder_hidden_states=which).sample for which in (null.expand_as(states), states))
            sample = scheduler.step(free + scale * (told - free), step, sample).prev_sample
        return ((autoencoder.decode(sample / divide).sample + 1) / 2).clamp(0, 1)


def ask(pipeline: ConditionalPipeline, **told: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images: torch.Tensor = pipeline(**told, num_inference_steps=3, output_type="pt").images
    return images


def test_classes_make_their_images(classes: Path) -> None:
    released = open_released(classes)
    table = draw_some((5, 24)).unsqueeze(1)
    noise = draw_some((2, 3, 8, 8), start=9)
    theirs = their_images(classes, table[[2, 0]], table[4:], noise, scale=2.5, divide=1.0)
    ours = ask(released.pipeline, class_labels=[2, 0], guidance_scale=2.5, latents=noise)
    assert theirs.std() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert released.denoiser.classes == 4
    assert torch.equal(released.denoiser.embed(Condition(ids=torch.tensor([4]))), table[4:])


def test_texts_make_their_images(texts: Path) -> None:
    """No mask of padding anywhere; latents are divided by the autoencoder's factor, which the pipeline of classes leaves alone."""
    released = open_released(texts)
    prompts = ["red apple", "a dog of cat"]
    tokenizer, bert = AutoTokenizer.from_pretrained(texts / "tokenizer"), BertModel.from_pretrained(texts / "bert").eval()
    with torch.no_grad():
        how = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        states, null = (bert(tokenizer(which, **how).input_ids).last_hidden_state for which in (prompts, [""]))
    noise = draw_some((2, 3, 8, 8), start=9)
    theirs = their_images(texts, states, null, noise, scale=3.0, divide=SCALE)
    ours = ask(released.pipeline, prompt=prompts, guidance_scale=3.0, latents=noise)
    assert theirs.std() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert isinstance(released.denoiser, UNet)
    assert not released.denoiser.mask_padding


def test_dit_makes_their_images(tmp_path: Path) -> None:
    network = build_kind("dit-class", learned_variance=True)
    vae = save_autoencoder(tmp_path / "vae", "AutoencoderKL", latent_channels=3, scaling_factor=SCALE)
    home, names = tmp_path / "dit", dict(enumerate(["cat", "dog", "boat", "sea"]))
    pipeline = DiTPipeline(to_stock(network), AutoencoderKL.from_pretrained(vae), DDIMScheduler(1000, clip_sample=False), id2label=names)
    pipeline.save_pretrained(home)
    index = json.loads((home / "model_index.json").read_text())
    (home / "model_index.json").write_text(json.dumps(index | {"id2label": names}))  # as in the index of DiT's own pipeline
    released = open_released(home)
    noise = draw_some((2, 3, 8, 8), start=9)
    sampler = SamplerConfig(name="ddim", steps=2)
    trained = [Trained(which, Noise(), Condition(ids=torch.tensor([4]))) for which in (network, released.denoiser)]
    theirs, ours = (
        sample_latents(which, sampler, Condition(ids=torch.tensor([2, 0])), torch.arange(2), seed=0, scales=(1.5,)) for which in trained
    )
    assert torch.allclose(ours, theirs, atol=1e-4)
    images = ask(released.pipeline, class_labels=["boat", "cat"], guidance_scale=1.5, latents=noise)
    assert torch.allclose(images, ask(released.pipeline, class_labels=[2, 0], guidance_scale=1.5, latents=noise), atol=1e-6)
    assert released.pipeline.config.latent_scale == SCALE


def test_what_was_opened_can_be_saved_as_ours(classes: Path, texts: Path, tmp_path: Path) -> None:
    """And then it opens with diffusers alone, as everything else does."""
    for home, told in ((classes, {"class_labels": [1]}), (texts, {"prompt": ["red apple"]})):
        pipeline = open_released(home).pipeline
        pipeline.save_pretrained(tmp_path / "saved" / home.name)
        again = ConditionalPipeline.from_pretrained(tmp_path / "saved" / home.name)
        noise = draw_some((1, 3, 8, 8))
        assert torch.allclose(ask(pipeline, latents=noise, **told), ask(again, latents=noise, **told), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda home: shutil.rmtree(home / "unet"), r"unet/config\.json: cannot be read: No such file"),
        (lambda home: (home / "model_index.json").write_text("[]"), "model_index.json: no table"),
        (lambda home: (home / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}'), "a pipeline of class DDPMPipeline"),
        (lambda home: (home / "vqvae" / "diffusion_pytorch_model.safetensors").unlink(), "vqvae/.*safetensors: it is not there"),
        (
            lambda home: (home / "class_embedder" / "config.json").write_text('{"n_classes": 6, "embed_dim": 24}'),
            r"class_embedder: weights embedding\.weight \(5, 24\), expected embedding\.weight \(6, 24\)",
        ),
        (
            lambda home: (home / "model_index.json").write_text(
                json.dumps(json.loads((home / "model_index.json").read_text()) | {"scheduler": ["os", "system"]})
            ),
            "scheduler: a scheduler of class system, expected one of diffusers'",
        ),
    ],
)
def test_a_broken_folder_is_one_line(classes: Path, change: Any, message: str) -> None:
    change(classes)
    with pytest.raises(ck.DatasetError, match=message):
        open_released(classes)
