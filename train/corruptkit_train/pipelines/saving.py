"""A trained network as a folder that `DiffusionPipeline.from_pretrained` opens, published whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusers import SchedulerMixin
from diffusers.models.modeling_utils import ModelMixin

import corruptkit as ck
from corruptkit_train.encoders import Encoder
from corruptkit_train.models.convert import to_stock
from corruptkit_train.models.dit import DiT
from corruptkit_train.models.mlp import MLP
from corruptkit_train.models.unet import UNet
from corruptkit_train.pipelines.pipeline import ConditionalPipeline


@dataclass(frozen=True)
class Settings:
    """What a saved pipeline knows of its training, and how it samples unless told otherwise."""

    objective: Literal["eps", "v", "flow"]
    guidance_scale: float = 1.0  # 1 is no guidance
    steps: int = 50
    latent_scale: float | None = None  # latents = (encoder's output - shift) x scale; None: as the autoencoder's config says
    latent_shift: float | None = None
    info: Mapping[str, Any] | None = None  # anything JSON can say, such as the variant's id and the number of images seen


def make_pipeline(
    denoiser: DiT | UNet | MLP,
    *,
    scheduler: SchedulerMixin,
    settings: Settings,
    condition: Sequence[str] | Encoder | None,
    autoencoder: ModelMixin | None = None,
) -> ConditionalPipeline:
    """The pipeline of a network as it is: `condition` is the classes' names (None: they have none) or the text encoder of training."""
    _check_parts(denoiser, condition)
    text = condition if isinstance(condition, Encoder) else None
    pipeline = ConditionalPipeline(
        scheduler=scheduler,
        transformer=None if isinstance(denoiser, UNet) else denoiser,
        unet=denoiser.unet if isinstance(denoiser, UNet) else None,
        class_embedder=denoiser.class_embedder if isinstance(denoiser, UNet) else None,
        tokenizer=None if text is None else text.tokenizer,
        text_encoder=None if text is None else _text_network(text, denoiser),
        vae=autoencoder,
        objective=settings.objective,
        id2label=None if condition is None or isinstance(condition, Encoder) else dict(enumerate(condition)),
        text=None if text is None else _describe_text(text, denoiser),
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.steps,
        latent_scale=settings.latent_scale,
        latent_shift=settings.latent_shift,
        info=None if settings.info is None else dict(settings.info),
    )
    try:
        pipeline.check_scheduler()
    except ValueError as error:
        raise ck.CatalogError(ck.Problem("scheduler", str(error))) from None
    return pipeline


def save_pipeline(
    denoiser: DiT | UNet | MLP,
    folder: str | Path,
    *,
    scheduler: SchedulerMixin,
    settings: Settings,
    condition: Sequence[str] | Encoder | None,
    autoencoder: ModelMixin | None = None,
    replace: bool = False,
) -> None:
    """Write the pipeline of `make_pipeline`; the folder appears whole, or stays as it was."""
    pipeline = make_pipeline(denoiser, scheduler=scheduler, settings=settings, condition=condition, autoencoder=autoencoder)
    with publish_folder(Path(folder), replace=replace) as partial:
        pipeline.save_pretrained(partial)


def export_stock(denoiser: DiT, folder: str | Path, *, replace: bool = False) -> None:
    """Write FOLDER/transformer as diffusers' `DiTTransformer2DModel`, for its `DiTPipeline` (whose null id is 1000 whatever K is)."""
    stock = to_stock(denoiser)
    with publish_folder(Path(folder) / "transformer", replace=replace) as partial:
        stock.save_pretrained(partial)


@contextmanager
def publish_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """An empty folder beside the target, which takes its place if the block ends well and is removed if not."""
    if folder.exists() and not replace:
        raise ck.ConflictError(ck.Problem(str(folder), "something lies there", "a new folder", "choose another, or say replace"))
    # Fixed names: what a killed process has left is swept by the next.
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)  # killed between two renames
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _describe_text(encoder: Encoder, denoiser: DiT | UNet | MLP) -> dict[str, Any]:
    """How the pipeline makes of a prompt what the encoder made of a caption."""
    masked = isinstance(denoiser, UNet) and denoiser.mask_padding
    how = encoder.config
    return {
        "output": how.output,
        "max_tokens": how.max_tokens,
        "encoder_masked": how.mask_padding,  # whether the encoder's attention leaves out padding
        "masked": masked,  # whether the network's does
        "digest": encoder.digest,  # of the encoder as training began, if it was trained
    }


def _text_network(encoder: Encoder, denoiser: DiT | UNet) -> Any:
    """The text encoder that the network was trained with, or the one that was there before."""
    trained = denoiser.text_encoder if isinstance(denoiser, UNet) else None
    return encoder.model if trained is None else trained


def _check_parts(denoiser: DiT | UNet | MLP, condition: Sequence[str] | Encoder | None) -> None:
    """Refuse names for a model of text, an encoder for a model of classes, and either of another size."""
    classes, width = denoiser.classes, denoiser.width
    if isinstance(condition, Encoder):
        if classes is not None or condition.width != width:
            found, expected = (
                f"an encoder of width {condition.width}",
                f"text states of width {width}" if classes is None else "class names",
            )
            raise ck.CatalogError(ck.Problem("pipeline", found, expected, "give what the network was built for"))
    elif classes is None or (condition is not None and len(condition) != classes):
        expected = "a text encoder" if classes is None else f"{classes} class names"
        found = "no condition" if condition is None else f"{len(condition)} class names"
        raise ck.CatalogError(ck.Problem("pipeline", found, expected, "give what the network was built for"))
