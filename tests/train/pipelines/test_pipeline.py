from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
    VQModel,
)

from corruptkit_train.conditions import Condition
from corruptkit_train.models import build_model
from corruptkit_train.pipelines import ConditionalPipeline, Settings, make_pipeline, round_pixels
from tests.train.conftest import save_encoder
from tests.train.networks import DIT, KINDS, build_kind, draw_some, wake_weights
from tests.train.pipelines.parts import MEAN, STD, Oracle, load_tiny

torch.set_num_threads(1)
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
WHOLE = [("eps", "epsilon"), ("v", "v_prediction")]
NAMES = ["cat", "dog", "boat", "sea"]


def open_kind(kind: str, tiny: Path | None = None, scheduler: Any = None, **changes: Any) -> ConditionalPipeline:
    condition = NAMES if tiny is None else load_tiny(tiny, "tokens" if KINDS[kind][3] else "pooled")
    scheduler = scheduler or DDIMScheduler(**LINEAR, clip_sample=False)
    pipeline = make_pipeline(build_kind(kind, **changes), scheduler=scheduler, settings=Settings("eps"), condition=condition)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_kind(pipeline: ConditionalPipeline, count: int = 2, **more: Any) -> Any:
    told = {"prompt": ["red apple", "a dog of cat"][:count]} if pipeline.classes is None else {"class_labels": [2, 0][:count]}
    arguments = {"seeds": range(count), "num_inference_steps": 3, "output_type": "latent"} | more
    return pipeline(**told, **arguments).images


@pytest.mark.parametrize("steps", [50, 250])
@pytest.mark.parametrize(
    ("objective", "scheduler"),
    [
        *((name, DDIMScheduler(**LINEAR, clip_sample=False, prediction_type=word)) for name, word in WHOLE),
        *((name, DPMSolverMultistepScheduler(**LINEAR, prediction_type=word)) for name, word in WHOLE),
        *((name, DDPMScheduler(**LINEAR, clip_sample=False, prediction_type=word)) for name, word in WHOLE),
        ("flow", FlowMatchEulerDiscreteScheduler()),
        ("flow", FlowMatchEulerDiscreteScheduler(shift=3.0)),
        ("flow", FlowMatchHeunDiscreteScheduler()),
        ("flow", DPMSolverMultistepScheduler(**FLOW)),
        ("flow", UniPCMultistepScheduler(**FLOW)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_a_perfect_predictor_gives_the_distribution(objective: str, scheduler: Any, steps: int) -> None:
    oracle = Oracle(objective=objective)
    pipeline = ConditionalPipeline(scheduler=scheduler, transformer=oracle, objective=objective)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(class_labels=[0] * 100, seeds=range(100), num_inference_steps=steps, output_type="latent").images
    # 25,600 numbers; what is left of the tolerance is the sampler's own error: DDPM in 50 steps is the worst with 20 % of STD.
    tolerance = 0.25 if steps == 50 else 0.08
    assert images.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert images.std().item() == pytest.approx(STD, rel=tolerance)
    # Whole times of 0 to 999 for noise and velocity; for flow up to 1000, broken, and never 0.
    last = 1000 if objective == "flow" else 999
    assert 0 <= min(oracle.times) <= 1000 / steps + 5
    assert 950 < max(oracle.times) <= last
    assert objective == "flow" or all(time == int(time) for time in oracle.times)


def test_a_flow_is_told_times_that_its_scheduler_would_cut() -> None:
    oracle = Oracle(objective="flow")
    scheduler = DPMSolverMultistepScheduler(**FLOW)
    pipeline = ConditionalPipeline(scheduler=scheduler, transformer=oracle, objective="flow")
    pipeline(class_labels=[0], num_inference_steps=50, output_type="latent")
    assert scheduler.timesteps.dtype == torch.int64
    assert max(abs(time - cut) for time, cut in zip(oracle.times, scheduler.timesteps.tolist(), strict=True)) > 0.5
    assert oracle.times == pytest.approx((scheduler.sigmas[:-1] * 1000).tolist())


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_guidance_goes_from_the_networks_own_null_to_the_condition_and_beyond(kind: str, scale: float, tiny: Path) -> None:
    pipeline, network = open_kind(kind, None if KINDS[kind][1] else tiny), build_kind(kind)
    noise = draw_some((2, 3, 8, 8))
    if pipeline.classes is None:
        (states, mask), (null, null_mask) = pipeline.encode_prompts(["red apple", "a dog of cat"]), pipeline.encode_prompts([""] * 2)
        told, free = Condition(states=states, mask=mask), Condition(states=null, mask=null_mask)
    else:
        told, free = Condition(ids=torch.tensor([2, 0])), Condition(ids=torch.tensor([4, 4]))
    scheduler = DDIMScheduler(**LINEAR, clip_sample=False)
    scheduler.set_timesteps(2)
    sample = noise
    with torch.no_grad():
        for step in scheduler.timesteps:
            conditional, unconditional = (network(sample, step.expand(2), network.embed(which), which.mask) for which in (told, free))
            sample = scheduler.step(unconditional + scale * (conditional - unconditional), step, sample).prev_sample
    images = call_kind(pipeline, latents=noise, guidance_scale=scale, num_inference_steps=2)
    assert torch.allclose(images, sample, rtol=1e-4, atol=1e-4 * sample.abs().max().item())
    assert not torch.allclose(images, call_kind(pipeline, latents=noise, guidance_scale=scale + 1.5, num_inference_steps=2), rtol=0.02)


def test_scale_0_is_the_unconditional_model_and_the_null_id_names_it() -> None:
    pipeline, arguments = open_kind("dit-class"), {"seeds": [1], "num_inference_steps": 3, "output_type": "latent"}
    free = pipeline(class_labels=[2], guidance_scale=0.0, **arguments).images
    assert torch.allclose(free, pipeline(class_labels=[4], **arguments).images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheduler", [DDIMScheduler(**LINEAR), DDPMScheduler(**LINEAR)])
def test_a_seed_is_an_image_whatever_its_batch(scheduler: Any) -> None:
    pipeline = open_kind("unet-class", scheduler=scheduler)
    together = pipeline(class_labels=[0, 1, 2], seeds=[7, 8, 9], num_inference_steps=3, output_type="latent").images
    alone = pipeline(class_labels=[1], seeds=[8], num_inference_steps=3, output_type="latent").images
    assert torch.allclose(together[1:2], alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(together, pipeline(class_labels=[0, 1, 2], seeds=[7, 8, 9], num_inference_steps=3, output_type="latent").images)


@pytest.mark.parametrize("kind", ["dit-class", "unet-class"])
def test_a_learned_variance_is_used_by_ddpm_and_left_out_by_others(kind: str) -> None:
    learned = DDPMScheduler(**LINEAR, variance_type="learned_range", clip_sample=False)
    fixed = DDPMScheduler(**LINEAR, clip_sample=False)
    pipeline = open_kind(kind, scheduler=learned, learned_variance=True)
    first = call_kind(pipeline, guidance_scale=2.0)
    pipeline.scheduler = fixed
    second = call_kind(pipeline, guidance_scale=2.0)
    assert first.shape == second.shape == (2, 3, 8, 8)
    assert not torch.allclose(first, second)
    # A scheduler made from DDPM's configuration inherits the word, and would cut the channels itself.
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(learned.config)
    inherited = call_kind(pipeline)
    pipeline.scheduler = DPMSolverMultistepScheduler(**LINEAR)
    assert torch.equal(inherited, call_kind(pipeline))


def test_four_channels_survive_a_solver_that_cuts_variances_at_three() -> None:
    network = wake_weights(build_model(DIT.model_copy(update={"learned_variance": True}), shape=(4, 8, 8), classes=4, seed=0))
    learned = DDPMScheduler(**LINEAR, variance_type="learned_range")
    pipeline = make_pipeline(network, scheduler=learned, settings=Settings("eps"), condition=NAMES)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(learned.config)
    assert call_kind(pipeline).shape == (2, 4, 8, 8)


@pytest.mark.parametrize(
    ("objective", "scheduler", "message"),
    [
        ("eps", FlowMatchEulerDiscreteScheduler(), "found FlowMatchEulerDiscreteScheduler for flow_prediction, expected epsilon"),
        (
            "v",
            DDIMScheduler(),
            "found DDIMScheduler for epsilon, expected v_prediction; give its from_config prediction_type='v_prediction'",
        ),
        ("flow", DPMSolverMultistepScheduler(), "found DPMSolverMultistepScheduler for epsilon, expected flow_prediction"),
        ("flow", DPMSolverMultistepScheduler(prediction_type="flow_prediction"), "without flow sigmas, expected a flow"),
        (
            "eps",
            DDPMScheduler(variance_type="learned_range"),
            "with learned_range variance, expected 'fixed_small'; this network learnt none",
        ),
    ],
)
def test_a_scheduler_that_reads_outputs_as_something_else_is_refused(objective: str, scheduler: Any, message: str) -> None:
    pipeline = open_kind("dit-class")
    pipeline.register_to_config(objective=objective)
    pipeline.scheduler = scheduler
    with pytest.raises(ValueError, match=re.escape(message)):
        call_kind(pipeline)


def test_labels_are_ids_or_names() -> None:
    pipeline = open_kind("dit-class")
    assert pipeline.find_ids(["boat", 0, 4, "cat"]) == [2, 0, 4, 0]
    assert len(pipeline("dog", num_inference_steps=1).images) == len(pipeline(1, num_inference_steps=1).images) == 1
    for wrong in (5, -1, "bird"):
        with pytest.raises(ValueError, match=f"found label {wrong!r} .*, expected an id from 0 to 3 or a name in id2label"):
            pipeline([wrong])
    pipeline.register_to_config(id2label={0: "crane", 1: "dog", 2: "crane", 3: "sea"})
    with pytest.raises(ValueError, match=r"found label 'crane' \(2 classes of that name\)"):
        pipeline("crane")


def test_a_call_says_what_it_is_about(tiny: Path) -> None:
    for pipeline, wrong in [(open_kind("dit-class"), {"prompt": "a"}), (open_kind("dit-text", tiny), {"class_labels": 1})]:
        wanted = "prompt" if pipeline.classes is None else "class_labels"
        for call in (wrong, {}, {"prompt": "a", "class_labels": 1}):
            with pytest.raises(ValueError, match=f"expected {wanted} alone"):
                pipeline(**call)
    with pytest.raises(ValueError, match="found 3 seeds for 1 images, expected one each"):
        open_kind("dit-class")([1], seeds=[1, 2, 3])
    with pytest.raises(ValueError, match=r"found latents of shape \(1, 3, 4, 4\), expected \(1, 3, 8, 8\)"):
        open_kind("dit-class")([1], latents=torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("encoder", ["bert", "t5", "clip"])
@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_a_prompt_becomes_what_a_caption_became_in_training(tmp_path: Path, encoder: str, output: Any) -> None:
    trained = load_tiny(save_encoder(tmp_path / "encoder", encoder), output)
    kind = "dit-text" if output == "pooled" else "unet-tokens"
    pipeline = make_pipeline(build_kind(kind), scheduler=DDIMScheduler(), settings=Settings("eps"), condition=trained)
    prompts = ["red apple", "", "a dog of cat a photo of thing a b c d e f", "x"]
    (states, mask), (expected, expected_mask) = pipeline.encode_prompts(prompts), trained.encode(prompts)
    assert states.shape == expected.shape
    assert (mask is None) == (output == "pooled")
    if mask is not None:
        assert expected_mask is not None
        assert torch.equal(mask, expected_mask)
        states, expected = states[mask], expected[mask]  # nobody looks at padding
    assert (states - expected).abs().max() < 1e-5 * expected.abs().max()


def test_tokens_are_unmasked_for_a_network_that_sees_padding(tiny: Path) -> None:
    pipeline = open_kind("unet-tokens", tiny, mask_padding=False)
    assert pipeline.encode_prompts(["a"])[1] is None


def test_bytes_are_rounded_to_nearest() -> None:
    values = torch.tensor([-2.0, -1.0, -1 + 0.49 * 2 / 255, -1 + 0.51 * 2 / 255, 0.0, 1 - 0.49 * 2 / 255, 1.0, 7.0])
    assert round_pixels(values).tolist() == [0, 0, 0, 1, 128, 255, 255, 255]  # 127.5 is a half: to even
    every = torch.arange(256)
    assert torch.equal(round_pixels(every / 255 * 2 - 1), every.to(torch.uint8))


def test_outputs_agree() -> None:
    pipeline = open_kind("unet-class")
    latent, pt, numbers, integers, pictures = (call_kind(pipeline, output_type=kind) for kind in ("latent", "pt", "np", "uint8", "pil"))
    assert torch.equal(pt, ((latent + 1) / 2).clamp(0, 1))
    assert np.array_equal(numbers, pt.permute(0, 2, 3, 1).numpy())
    assert integers.dtype == np.uint8
    assert np.abs(integers / 255 - numbers).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), integers)
    assert 0 < integers.mean() < 255


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, None)])
def test_pictures_have_one_channel_or_three(channels: int, mode: str | None) -> None:
    network = wake_weights(build_model(DIT, shape=(channels, 8, 8), classes=4, seed=0))
    pipeline = make_pipeline(network, scheduler=DDIMScheduler(), settings=Settings("eps"), condition=None)
    if mode:
        assert pipeline([0], num_inference_steps=1).images[0].mode == mode
    else:
        with pytest.raises(ValueError, match="found 2 channels, expected 1 or 3 for a picture"):
            pipeline([0], num_inference_steps=1)


BLOCKS = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 3}
SAMPLED = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


@pytest.mark.parametrize(
    ("autoencoder", "scale", "shift"),
    [
        (AutoencoderKL(**BLOCKS, **SAMPLED, scaling_factor=0.5, shift_factor=0.1), 0.5, 0.1),
        (VQModel(**BLOCKS, **SAMPLED, num_vq_embeddings=16, scaling_factor=1.0), 1.0, 0.0),
        (AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=3, upsampling_scaling_factor=2), 1.0, 0.0),  # noqa: E501
    ],
    ids=["kl", "vq", "tiny"],
)  # fmt: skip
def test_latents_are_decoded_at_their_scale(autoencoder: Any, scale: float, shift: float) -> None:
    pipeline = open_kind("dit-class")
    latents = call_kind(pipeline)
    pipeline.register_modules(vae=wake_weights(autoencoder))
    with torch.no_grad():
        stated, own = (autoencoder.decode(latents / by + plus).sample for by, plus in ((scale, shift), (0.7, 0.2)))
    assert torch.equal(call_kind(pipeline, output_type="pt"), ((stated + 1) / 2).clamp(0, 1))
    pipeline.register_to_config(latent_scale=0.7, latent_shift=0.2)
    assert torch.equal(call_kind(pipeline, output_type="pt"), ((own + 1) / 2).clamp(0, 1))
    assert call_kind(pipeline, output_type="uint8").shape == (2, 16, 16, 3)
