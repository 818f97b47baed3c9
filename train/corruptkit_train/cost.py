"""What a run will cost, before it starts: FLOPs of a training step, counted on a network without numbers, and hours of a device."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import corruptkit as ck
from corruptkit_train.autoencoders import load_autoencoder
from corruptkit_train.conditions import Condition, Conditions, Teller
from corruptkit_train.config import RunConfig
from corruptkit_train.encoders import Encoder, TextEncoder, load_encoder
from corruptkit_train.meter import count_flops, stated_peak
from corruptkit_train.models import build_model
from corruptkit_train.models.unet import TrainedText

# Assumed of a device: the share of its peak that a run reaches. Public trainers of such networks reach 12 to 25 %.
MFU = 0.35
_CHEAP = 0.1  # hours
_DEVICES = ("H100", "A100")  # where none is at hand
_META = torch.device("meta")  # tensors with a shape and no numbers
_BERT_WIDTH = 768
_CLASSES = 1000  # where no data are named; their number hardly matters


@dataclass(frozen=True)
class Estimate:
    """FLOPs of one image's training step, weights of all that is trained, hours by device, and what had to be assumed."""

    images: int
    flops: float
    weights: int
    precision: str
    peaks: dict[str, float]  # FLOP/s by device
    assumed: tuple[str, ...] = ()

    @property
    def hours(self) -> dict[str, float]:
        return {name: self.images * self.flops / (peak * MFU) / 3600 for name, peak in self.peaks.items()}

    def lines(self) -> list[str]:
        """For a person."""
        work = f"{self.images:,} images x {self.flops / 1e9:,.3g} GFLOP, {self.weights / 1e6:,.1f} M weights"
        hours = ", ".join(f"{hours:,.3g} hours of one {name}" for name, hours in self.hours.items())
        held = ", ".join(f"{peak / 1e12:,.4g}" for peak in self.peaks.values())
        found = [f"estimate  {work}: {hours}, at {MFU:.0%} (assumed) of {held} TFLOP/s in {self.precision}"]
        return found + [f"assumed   {words}" for words in self.assumed]

    def record(self) -> dict[str, Any]:
        """For a program."""
        shown = {"images": self.images, "flops_per_image": self.flops, "weights": self.weights, "mfu": MFU}
        return shown | {"peaks": self.peaks, "hours": self.hours, "assumed": list(self.assumed)}


def estimate_cost(
    config: RunConfig,
    null: Condition,
    *,
    shape: Sequence[int],
    classes: int | None = None,
    text: Encoder | None = None,
    assumed: Sequence[str] = (),
) -> Estimate:
    """The cost of a run whose samples have a shape (C, H, W); `null` is a condition of one row, `text` an encoder that is trained along.

    Token ids without an encoder are counted as BERT-base's.
    """
    channels, height, width = shape
    about: dict[str, Any] = {"classes": classes}
    if null.words is not None:
        network = _sketch_encoder(text)
        about = {"text_width": int(network.config.hidden_size), "tokens": True, "text": TrainedText(network, mask_padding=False)}
    elif null.states is not None:
        about = {"text_width": null.states.shape[-1], "tokens": null.states.ndim == 3}
    with _META:
        denoiser = build_model(config.model, shape=(channels, height, width), seed=config.seed, **about)
    weights = sum(weight.numel() for weight in denoiser.parameters())
    flops = count_flops(denoiser, replace(null, mask=None).to(_META), _META)  # a mask saves no product
    return Estimate(config.images, flops, weights, config.precision, _find_peaks(config), tuple(assumed))


def tell_cost(config: RunConfig, conditions: Conditions, shape: Sequence[int], images: int) -> None:
    """On standard error, what training will cost; a run of minutes needs no plan."""
    some, text = config.model_copy(update={"images": images}), getattr(conditions, "trained", None)
    try:
        found = estimate_cost(some, conditions.null, shape=shape, classes=conditions.classes, text=text)
    except (RuntimeError, NotImplementedError):  # XLNet's forward pass makes tensors with numbers, which meet those without
        return
    if max(found.hours.values()) > _CHEAP:
        tqdm.write("\n".join(found.lines()), file=sys.stderr)


def estimate_alone(config: RunConfig) -> Estimate:
    """The cost of a run without its data; what is not on this machine is assumed, and nothing is fetched."""
    assumed = list[str]()
    shape: tuple[int, int, int] = (config.data.channels, config.data.size, config.data.size)
    if config.latents is not None and Path(config.latents.autoencoder).expanduser().is_dir():
        shape = load_autoencoder(config.latents).latent_shape(config.data.size)
    elif config.latents is not None:
        channels, factor = (4, 8) if config.model.kind == "dit" else (3, 4)
        shape = (channels, config.data.size // factor, config.data.size // factor)
        assumed.append(f"latents of {shape[0]} x {shape[1]} x {shape[2]}: the autoencoder is not here")
    if config.condition.kind == "class":
        return estimate_cost(config, Condition(ids=torch.tensor([0])), shape=shape, classes=_CLASSES, assumed=assumed)
    encoder = config.condition.encoder
    if encoder.name == "minilm" or Path(encoder.name).expanduser().is_dir():
        teller = Teller(load_encoder(encoder))
        try:
            return estimate_cost(config, teller([""]), shape=shape, text=teller.encoder, assumed=assumed)
        except (RuntimeError, NotImplementedError) as error:  # as in tell_cost
            found, do = "its cost cannot be counted without numbers", "start the run, which needs no estimate"
            raise ck.CatalogError(ck.Problem(encoder.name, found, do=do)) from error
    assumed.append("captions by a network like BERT-base: the text encoder is not here")
    null = (
        Condition(words=torch.zeros(1, encoder.max_tokens, dtype=torch.int64))
        if encoder.train
        else Condition(states=_guess_states(encoder))
    )
    return estimate_cost(config, null, shape=shape, assumed=assumed)


def _guess_states(encoder: TextEncoder) -> Tensor:
    """States of one caption, as BERT-base would give them."""
    return torch.zeros(1, _BERT_WIDTH) if encoder.output == "pooled" else torch.zeros(1, encoder.max_tokens, _BERT_WIDTH)


def _sketch_encoder(text: Encoder | None) -> Any:
    """A text encoder's network without numbers."""
    from transformers import BertConfig, BertModel

    with _META:
        if text is None:
            return BertModel(BertConfig(), add_pooling_layer=False)
        return type(text.model)(text.model.config)


def _find_peaks(config: RunConfig) -> dict[str, float]:
    """Peak FLOP/s of the device at hand, if it is one that is known, else of two that are common."""
    names = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    here = {name: peak for name in names if (peak := stated_peak(name, config.precision))}
    return here or {name: float(stated_peak(name, config.precision) or 0) for name in _DEVICES}
