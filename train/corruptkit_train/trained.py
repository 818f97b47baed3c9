"""The network of a run: as its seed begins it, and as a checkpoint has it, with the networks around it that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

import corruptkit as ck
from corruptkit_train.autoencoders import Autoencoder, load_autoencoder
from corruptkit_train.averages import copy_weights
from corruptkit_train.checkpoint import Checkpoint
from corruptkit_train.conditions import Conditions, Tell, Teller, null_conditions, open_words
from corruptkit_train.config import RunConfig
from corruptkit_train.loop import explain_memory
from corruptkit_train.models import build_model
from corruptkit_train.models.dit import DiT
from corruptkit_train.models.mlp import MLP
from corruptkit_train.models.unet import TrainedText, UNet
from corruptkit_train.sampling import Trained


def pixel_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, H, W) of images."""
    return config.data.channels, config.data.size, config.data.size


def make_denoiser(config: RunConfig, conditions: Conditions, shape: Sequence[int] = ()) -> DiT | UNet | MLP:
    """The network as its seed begins it, for samples of a shape (C, H, W): of pixels, unless told otherwise."""
    channels, height, width = shape or pixel_shape(config)
    states, trained = conditions.null.states, getattr(conditions, "trained", None)
    tokens = trained is not None or (states is not None and states.ndim == 3)
    text_width = trained.width if trained is not None else None if states is None else states.shape[-1]
    told = "a text" if conditions.classes is None else f"{conditions.classes:,} classes"
    with explain_memory(ck.Problem("model", f"out of memory for a network that is told {told}", do="choose a smaller one")):
        return build_model(
            config.model,
            shape=(channels, height, width),
            classes=conditions.classes,
            text_width=text_width,
            tokens=tokens,
            text=None if trained is None else TrainedText(trained.start_training(), trained.config.mask_padding),
            seed=config.seed,
        )


def trained_model(config: RunConfig, conditions: Conditions, weights: dict[str, Tensor], autoencoder: Autoencoder | None = None) -> Trained:
    """Another network of the run, with these weights, for sampling; what it makes is decoded by the autoencoder, if it is latents."""
    shape = pixel_shape(config) if autoencoder is None else autoencoder.latent_shape(config.data.size)
    denoiser = make_denoiser(config, conditions, shape)
    copy_weights(weights, weights, denoiser)
    denoiser.eval().requires_grad_(requires_grad=False)
    return Trained(denoiser, config.objective, conditions.null, autoencoder)


def open_model(
    config: RunConfig, checkpoint: Checkpoint, weights: Literal["average", "raw"] = "average", tell: Tell | None = None
) -> Trained:
    """The network of a run's checkpoint; its data need not be there. `tell` saves loading its text encoder again."""
    told = tell or open_words(config.condition)
    if isinstance(told, Teller):
        refuse_other_network(config.condition.encoder.name, "the text encoder", told.encoder.digest, checkpoint.state["data"]["encoder"])
    conditions = null_conditions(config.condition, checkpoint.state["data"]["classes"], told)
    part = {"average": "average", "raw": "weights"}[weights]
    tensors = checkpoint.tensors(part)
    try:
        return trained_model(config, conditions, tensors, open_decoder(config, checkpoint))
    except (LookupError, RuntimeError) as error:
        found = f"weights of another network: {str(error).splitlines()[0]:.80}"
        raise ck.IntegrityError(ck.Problem(str(checkpoint.path / f"{part}.safetensors"), found, "those that run.json states")) from None


def open_decoder(config: RunConfig, checkpoint: Checkpoint) -> Autoencoder | None:
    """The autoencoder of a run's latents, if it learned any. Raises IntegrityError where it is another one by now."""
    if config.latents is None:
        return None
    found = load_autoencoder(config.latents)
    stated = checkpoint.state["data"]["latents"]["autoencoder"]
    refuse_other_network(config.latents.autoencoder, "the autoencoder", found.digest, stated)
    return found


def refuse_other_network(place: str, word: str, found: str, stated: str) -> None:
    """What a run learned from is loaded from where it was; by now it may be another. Raises IntegrityError."""
    if found != stated:
        do = "put back the files of training"
        raise ck.IntegrityError(ck.Problem(place, f"{word} {found[:16]}", f"{stated[:16]}, with which the run was trained", do))
