"""A text encoder that is trained along: the laws of a run hold for it, and what is saved and sampled has its trained weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import corruptkit as ck
from corruptkit_train import step
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.cli import main
from corruptkit_train.conditions import Condition, TextConditions, drop_conditions, null_rows, open_conditions, open_words
from corruptkit_train.config import ConditionConfig, RunConfig, parse_config
from corruptkit_train.encoders import Encoder, TextEncoder, load_encoder
from corruptkit_train.pipelines import ConditionalPipeline
from corruptkit_train.run import train_run
from corruptkit_train.trained import make_denoiser, open_model
from tests.train.conftest import save_encoder
from tests.train.small import small_run, write_pictures
from tests.train.test_run import command, finish, relative_difference, saved, write_run

UNET = {"kind": "unet", "channels": [8, 16], "attention": [False, True], "layers": 1, "norm_groups": 4, "heads": 2, "mask_padding": False}
TENSOR = "text_encoder.encoder.layer.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src")


def text_run(encoder: Path, **changes: Any) -> RunConfig:
    told = {"name": str(encoder), "output": "tokens", "max_tokens": 6, "mask_padding": False, "train": True}
    table = small_run(**{"images": 64, **changes}).model_dump(mode="json")
    return parse_config(table | {"model": UNET, "condition": {"kind": "text", "encoder": told}}, "test")


def weights_of(out: Path, images: int = 64, part: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"{images:012d}" / f"{part}.safetensors")


@pytest.mark.parametrize("kind", ["bert", "t5", "unpooled"])
def test_half_and_half_is_whole(source: Path, tmp_path: Path, kind: str) -> None:
    """With BERT's own dropout of 0.1 in its config, which would draw by no key; the encoder learns, in the weights and in the average."""
    encoder = save_encoder(tmp_path / "encoder", kind)
    config = text_run(encoder, perturbation=[{"kind": "cep"}], data={"flip": True})
    train_run(config, source, tmp_path / "whole")
    train_run(config, source, tmp_path / "halves", images=32)
    torch.manual_seed(1234)  # what the global generator has drawn meanwhile is no matter
    train_run(config, source, tmp_path / "halves")
    assert saved(tmp_path / "whole", 64) == saved(tmp_path / "halves", 64)
    first = load_encoder(config.condition.encoder).model.state_dict()
    for part in ("weights", "average"):
        after = weights_of(tmp_path / "whole", part=part)
        moved = [name for name in first if not torch.equal(first[name], after.get(f"text_encoder.{name}", first[name]))]
        assert len(moved) > 10
        assert not any("pooler" in name for name in moved)


def test_what_no_state_depends_on_is_not_trained(tmp_path: Path) -> None:
    """Two processes would wait for its gradient for ever: a pooler's, or that of a part for inputs that captions do not have."""
    import transformers

    folder = save_encoder(tmp_path / "encoder")
    sizes = {"vocab_size": 1100, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "pad_token_id": 0, "dropout": 0.0}
    transformers.XLNetModel(transformers.XLNetConfig(**sizes)).save_pretrained(folder)
    encoder = load_encoder(TextEncoder(name=str(folder), output="tokens", max_tokens=6, mask_padding=False, train=True))
    still = {name for name, weight in encoder.start_training().named_parameters() if not weight.requires_grad}
    assert still == {"mask_emb", "layer.0.rel_attn.r_s_bias", "layer.0.rel_attn.seg_embed"}
    bert = load_encoder(TextEncoder(name=str(save_encoder(tmp_path / "bert")), output="tokens", max_tokens=6, train=True))
    still = {name for name, weight in bert.start_training().named_parameters() if not weight.requires_grad}
    assert still == {"pooler.dense.weight", "pooler.dense.bias"}


@pytest.mark.parametrize("train", [True, False])
def test_another_encoder_under_the_same_name_is_refused(source: Path, tmp_path: Path, *, train: bool) -> None:
    folder = save_encoder(tmp_path / "encoder")
    config = text_run(folder, images=16)
    table = config.model_dump(mode="json")
    table["condition"]["encoder"]["train"] = train
    config = parse_config(table, "test")
    train_run(config, source, tmp_path / "run")
    (checkpoint,) = find_checkpoints(tmp_path / "run")
    open_model(config, checkpoint)
    save_encoder(folder, seed=1)
    with pytest.raises(ck.ConflictError, match=r"the data's encoder is '[0-9a-f]{32}', expected '[0-9a-f]{32}', as it was begun"):
        train_run(config, source, tmp_path / "run", images=32)
    with pytest.raises(ck.IntegrityError, match=r"the text encoder [0-9a-f]{16}, expected [0-9a-f]{16}, with which the run was trained"):
        open_model(config, checkpoint)


def test_two_processes_are_one(source: Path, tmp_path: Path, tiny: Path) -> None:
    config = write_run(text_run(tiny, images=320), tmp_path / "run.json")
    assert finish(command("run", config, "--data", source, "--out", tmp_path / "one"))[0] == 0
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "corruptkit_train"]
    words = ["run", str(config), "--data", str(source), "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    both = subprocess.run([*line, *words], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert both.returncode == 0, both.stderr
    one, two = (weights_of(tmp_path / run, 320) for run in ("one", "two"))
    assert relative_difference(one, two) < 1e-4
    assert relative_difference({TENSOR: one[TENSOR]}, {TENSOR: two[TENSOR]}) < 1e-3


def test_clean_and_corrupted_runs_are_pairs(source: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, times and noises; token ids differ where the plan swaps captions, and nowhere else."""
    dataset = ck.open_dataset(source)
    plan = ck.make_plan(ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.25")]), dataset.index())
    ck.write_variant(dataset, plan, tmp_path / "swap", "overlay")
    calls: list[dict[str, Any]] = []
    add = step.add_noise

    def spy(objective: Any, clean: Any, noise: Any, times: Any, **how: Any) -> Any:
        calls.append({"clean": clean, "noise": noise, "times": times})
        return add(objective, clean, noise, times, **how)

    forward = step.TrainingStep.forward

    def note(module: Any, clean: Any, numbers: Any, rows: Any, condition: Any) -> Any:
        found = forward(module, clean, numbers, rows, condition)
        calls[-1] |= {"rows": rows, "words": condition.words}
        return found

    monkeypatch.setattr(step, "add_noise", spy)
    monkeypatch.setattr(step.TrainingStep, "forward", note)
    config = text_run(tiny, images=32)
    parts = []
    for data, out in ((source, "clean"), (tmp_path / "swap", "corrupted")):
        train_run(config, data, tmp_path / out)
        parts.append({name: torch.cat([call[name] for call in calls]) for name in calls[0]})
        calls.clear()
    clean, corrupted = parts
    for name in ("clean", "noise", "times", "rows"):
        assert torch.equal(clean[name], corrupted[name]), name
    edits = ck.open_dataset(tmp_path / "swap").edits
    assert edits is not None
    edited = {int(edit["key"]) for edit in edits.to_pylist()}
    differ = (clean["words"] != corrupted["words"]).any(dim=1)
    assert set(clean["rows"][differ].tolist()) == edited
    assert len(edited) == 8


def open_parts(source: Path, encoder: Path, folder: Path, **changes: Any) -> tuple[RunConfig, TextConditions]:
    config = text_run(encoder, **changes)
    found = open_conditions(config.condition, ck.open_dataset(source), folder)
    assert isinstance(found, TextConditions)
    return config, found


def test_token_ids_are_those_of_the_rows_captions(source: Path, tmp_path: Path, tiny: Path) -> None:
    config, found = open_parts(source, tiny, tmp_path / "captions")
    tell = open_words(config.condition)
    rows = torch.tensor([3, 9, 3])
    told, at = tell(["picture 3", "picture 9", "picture 3"]), found.at(rows)
    assert at.words is not None
    assert told.words is not None
    assert torch.equal(at.words, told.words)
    assert torch.equal(at.mask, told.mask)
    assert at.words.dtype == torch.int64
    assert at.words.shape == (3, 6)
    assert torch.equal(found.null.words, tell([""]).words)
    assert not (tmp_path / "captions").exists()  # nothing is encoded beforehand


def test_a_dropped_caption_is_the_empty_one(source: Path, tmp_path: Path, tiny: Path) -> None:
    _, found = open_parts(source, tiny, tmp_path / "captions")
    images = torch.arange(64)
    condition, dropped = drop_conditions(found.at(images % 32), found.null, images, 0.5, 0)
    assert 0 < int(dropped.sum()) < 64
    assert torch.equal(null_rows(condition, found.null), dropped)
    assert condition.words is not None
    assert (condition.words[dropped] == found.null.words).all()
    assert (condition.mask[dropped] == found.null.mask).all()
    kept = found.at(images % 32).take((~dropped).nonzero().flatten())
    assert torch.equal(condition.words[~dropped], kept.words)


def test_the_encoder_in_the_network_says_what_it_says_alone(source: Path, tmp_path: Path, tiny: Path) -> None:
    """As latent diffusion does: no attention mask, neither in the encoder nor in the network; with masks, padding changes nothing."""
    for masks in (False, True):
        config, found = open_parts(source, tiny, tmp_path / "captions")
        encoder = config.condition.encoder.model_copy(update={"mask_padding": masks})
        config = config.model_copy(update={"condition": config.condition.model_copy(update={"encoder": encoder})})
        found = open_conditions(config.condition, ck.open_dataset(source), tmp_path / "captions")
        network = make_denoiser(config, found).train()
        assert not network.text_encoder.training
        condition = found.at(torch.tensor([3, 9]))
        states = network.embed(condition)
        alone = load_encoder(encoder).model
        whole = condition.mask.long() if masks else None
        assert torch.allclose(states, alone(input_ids=condition.words, attention_mask=whole).last_hidden_state, atol=1e-6)
        frozen = load_encoder(encoder.model_copy(update={"train": False})).encode(["picture 3", "picture 9"])[0]
        assert torch.allclose(states, frozen, atol=1e-5)
        assert states.requires_grad


def test_what_is_saved_has_the_trained_encoder(source: Path, tmp_path: Path, tiny: Path) -> None:
    """The pipeline, in a process without our packages, and the command that samples: with the average's encoder, not the first one."""
    config = text_run(tiny, optimiser={"rate": 0.01}, average={"decay": 0.5})
    train_run(config, source, tmp_path / "run")
    average = weights_of(tmp_path / "run", part="average")
    pipeline = ConditionalPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    theirs = pipeline.text_encoder.state_dict()
    assert all(torch.equal(theirs[name.removeprefix("text_encoder.")], average[name]) for name in average if name.startswith("text_"))
    assert not torch.equal(average[TENSOR], weights_of(tmp_path / "run")[TENSOR])
    trained = open_model(config, find_checkpoints(tmp_path / "run")[-1])
    states = trained.denoiser.embed(open_words(config.condition)(["picture 3", ""]))
    assert torch.allclose(pipeline.encode_prompts(["picture 3", ""])[0], states, atol=1e-6)
    frozen = load_encoder(config.condition.encoder).encode(["picture 3", ""])[0]
    assert (states - frozen).abs().max() > 0.05
    assert pipeline.encode_prompts(["picture 3"])[1] is None  # the network sees padding
    code = (
        "import sys; sys.modules['corruptkit'] = sys.modules['corruptkit_train'] = None\n"
        "from diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(tmp_path / 'run' / 'pipeline')!r}, trust_remote_code=True)\n"
        "print(pipe(prompt=['picture 3', ''], num_inference_steps=2, guidance_scale=2.0, output_type='latent').images.shape)\n"
        "print(float(pipe.encode_prompts(['picture 3'])[0].double().sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 3, 8, 8])" in done.stdout
    assert float(done.stdout.split()[-1]) == pytest.approx(float(states[0].double().sum()), abs=1e-3)


def test_the_command_samples_with_the_trained_encoder(source: Path, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretrained folder gives architecture and tokenizer alone: its own network encodes nothing."""
    train_run(text_run(tiny, optimiser={"rate": 0.01}), source, tmp_path / "run")
    (tmp_path / "prompts.txt").write_text("picture 3\npicture 5\n")
    monkeypatch.setattr(Encoder, "encode", None)
    words = ["--count", "4", "--scale", "1,3", "--prompts", str(tmp_path / "prompts.txt"), "--format", "npz"]
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "samples"), *words]) == 0
    assert np.load(tmp_path / "samples" / "s3" / "samples.npz")["arr_0"].shape == (4, 8, 8, 3)


def test_guidance_takes_the_trained_encoders_empty_caption(source: Path, tmp_path: Path, tiny: Path) -> None:
    """Dropping a row while training is feeding the empty caption for it, by the encoder as it is now."""
    config, found = open_parts(source, tiny, tmp_path / "captions")
    network = make_denoiser(config, found).eval()
    with torch.no_grad():
        for weight in network.text_encoder.parameters():
            weight.mul_(1.1)
        dropped = found.at(torch.tensor([3, 9])).dropped(torch.tensor([True, False]), found.null)
        states, null = network.embed(dropped), network.embed(found.null)
    assert torch.allclose(states[:1], null, atol=1e-6)
    assert not torch.allclose(states[1:], null, atol=1e-2)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match='found train = true with pooled states, expected output = "tokens"; state it'):
        TextEncoder(train=True)
    with pytest.raises(ValueError, match='found mask_padding = false with pooled states, expected output = "tokens"'):
        TextEncoder(mask_padding=False)
    with pytest.raises(ck.CatalogError, match="found a dit with the tokens of captions"):
        small_run(condition={"kind": "text", "encoder": {"output": "tokens", "train": True}})
    frozen = ConditionConfig(kind="text")
    assert not frozen.encoder.train
    with pytest.raises(ValueError, match="conditions of two kinds"):
        Condition(words=torch.zeros(1, 2)).dropped(torch.tensor([True]), Condition(ids=torch.tensor([1])))
