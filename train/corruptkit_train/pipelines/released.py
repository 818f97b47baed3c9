"""The layouts in which the authors of "Slight Corruption in Pre-training Data Makes Better Diffusion Models" published their models.

Three pipelines of diffusers as they had it (0.27 with classes of their own); weights in safetensors alone, and no code of a folder runs:

    LDMClassToImagePipeline   unet/ class_embedder/ vqvae/ scheduler/              latents are decoded as they are
    LDMTextToImagePipeline    unet/ bert/ tokenizer/ vqvae/ scheduler/             latents are divided by the autoencoder's scaling_factor
    DiTPipeline               transformer/ vae/ scheduler/, id2label in the index  the same
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, SchedulerMixin, UNet2DConditionModel, VQModel
from safetensors.torch import load_file

import corruptkit as ck
from corruptkit_train.encoders import Encoder, TextEncoder, load_encoder
from corruptkit_train.models.class_embedder import ClassEmbedder
from corruptkit_train.models.convert import from_stock
from corruptkit_train.models.dit import DiT
from corruptkit_train.models.unet import TrainedText, UNet
from corruptkit_train.pipelines.pipeline import ConditionalPipeline
from corruptkit_train.pipelines.saving import Settings, make_pipeline

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_TOKENS = 77
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


@dataclass(frozen=True)
class Released:
    """A published model: its network, as training takes it, and its pipeline."""

    denoiser: DiT | UNet
    pipeline: ConditionalPipeline


def open_released(folder: str | Path) -> Released:
    """The model of a folder in one of the three layouts. Raises DatasetError where a part is not there or not what the layout has."""
    home = Path(folder)
    index = _read_json(home / "model_index.json")
    layouts = {"LDMClassToImagePipeline": _open_class, "LDMTextToImagePipeline": _open_text, "DiTPipeline": _open_dit}
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in layouts:
        expected = f"one of {', '.join(layouts)}"
        raise ck.DatasetError(ck.Problem(str(home / "model_index.json"), f"a pipeline of class {name}", expected, "open it with diffusers"))
    return layouts[name](home, index)


def _open_class(home: Path, index: dict[str, Any]) -> Released:
    """A U-Net and its table of K + 1 rows, the last for the null class."""
    unet, autoencoder = _load_part(home / "unet", UNet2DConditionModel), _load_autoencoder(home / "vqvae")
    table = _read_table(home / "class_embedder")
    with torch.device("meta"):
        embedder: ClassEmbedder = ClassEmbedder(classes=len(table) - 1, width=table.shape[1], as_token=True)
    embedder.load_state_dict({"table.weight": table}, assign=True)
    _check_width(home / "class_embedder", table.shape[1], unet)
    # Their pipeline decodes what the sampler ends with as it is, whatever the autoencoder's config says.
    return _assemble(home, index, UNet(unet, embedder.eval()), None, autoencoder, latent_scale=1.0)


def _open_text(home: Path, index: dict[str, Any]) -> Released:
    """A U-Net and its trained BERT; neither masks padding, and the empty caption is the null condition."""
    unet, autoencoder = _load_part(home / "unet", UNet2DConditionModel), _load_autoencoder(home / "vqvae")
    encoder = _load_text(home)
    _check_width(home / "bert", encoder.width, unet)
    network = UNet(unet, None, mask_padding=False, text=TrainedText(encoder.model, mask_padding=False))
    return _assemble(home, index, network, encoder, autoencoder, latent_scale=float(autoencoder.config.scaling_factor))


def _open_dit(home: Path, index: dict[str, Any]) -> Released:
    """diffusers' DiT, whose blocks each have a copy of the table and of the timestep's MLP: they must be equal."""
    network = from_stock(_load_part(home / "transformer", DiTTransformer2DModel), str(home / "transformer"))
    autoencoder = _load_autoencoder(home / "vae")
    return _assemble(home, index, network, None, autoencoder, latent_scale=float(autoencoder.config.scaling_factor))


def _assemble(
    home: Path, index: dict[str, Any], network: DiT | UNet, encoder: Encoder | None, autoencoder: Any, *, latent_scale: float
) -> Released:
    network.eval().requires_grad_(requires_grad=False)
    settings = Settings("eps", latent_scale=latent_scale, latent_shift=0.0)
    condition = encoder if encoder is not None else _read_names(index, int(network.classes or 0))
    scheduler = _load_scheduler(home, index)
    return Released(network, make_pipeline(network, scheduler=scheduler, settings=settings, condition=condition, autoencoder=autoencoder))


def _read_names(index: dict[str, Any], classes: int) -> list[str] | None:
    """The names of all classes, where the index has them."""
    names = index.get("id2label")
    if not isinstance(names, dict) or set(names) != {str(number) for number in range(classes)}:
        return None
    return [str(names[str(number)]) for number in range(classes)]


def _read_table(folder: Path) -> torch.Tensor:
    """The (K + 1, d) weights of their ClassEmbedder, whose config has n_classes and embed_dim."""
    config, file = _read_json(folder / "config.json"), folder / _WEIGHTS
    with _name_part(folder):
        weights = load_file(_need_file(file))
    table = weights.get("embedding.weight")
    expected = (config.get("n_classes"), config.get("embed_dim"))
    if table is None or len(weights) != 1 or tuple(table.shape) != expected:
        found = f"weights {', '.join(f'{name} {tuple(part.shape)}' for name, part in weights.items())}"
        raise ck.DatasetError(_no_part(folder, found, f"embedding.weight {expected}"))
    return table.float()


def _load_text(home: Path) -> Encoder:
    """Their BERT, with the tokenizer that lies beside it rather than in its folder."""
    _need_file(home / "bert" / "model.safetensors")
    config = TextEncoder(name=str(home / "bert"), output="tokens", max_tokens=_TOKENS, mask_padding=False, train=True)
    if not (home / "tokenizer").is_dir():
        raise ck.DatasetError(ck.Problem(str(home / "tokenizer"), "it is not there", "BERT's tokenizer", "download the whole folder"))
    return load_encoder(config, home / "tokenizer")


def _load_part(folder: Path, kind: Any) -> Any:
    """A model of diffusers from safetensors."""
    _read_json(folder / "config.json")
    _need_file(folder / _WEIGHTS)
    with _name_part(folder):
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()


def _load_autoencoder(folder: Path) -> Any:
    name = _read_json(folder / "config.json").get("_class_name")
    if name not in _AUTOENCODERS:
        raise ck.DatasetError(_no_part(folder, f"an autoencoder of class {name}", " or ".join(_AUTOENCODERS)))
    return _load_part(folder, _AUTOENCODERS[name])


def _load_scheduler(home: Path, index: dict[str, Any]) -> Any:
    """The sampler that the index names, one of diffusers'."""
    import diffusers

    folder, (_, name) = home / "scheduler", index.get("scheduler") or (None, None)
    kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ck.DatasetError(_no_part(folder, f"a scheduler of class {name}", "one of diffusers'"))
    _read_json(folder / "scheduler_config.json")
    with _name_part(folder):
        return kind.from_pretrained(folder)  # type: ignore[attr-defined] # of ConfigMixin, which every scheduler is too


def _check_width(folder: Path, width: int, unet: Any) -> None:
    if width != unet.config.cross_attention_dim:
        raise ck.DatasetError(_no_part(folder, f"states of width {width}", f"{unet.config.cross_attention_dim}, as the unet takes them"))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        found, words = None, f"cannot be read: {error.strerror}"
    except ValueError as error:
        found, words = None, f"no JSON: {error}"
    else:
        words = "no table"
    if not isinstance(found, dict):
        raise ck.DatasetError(ck.Problem(str(file), words, "a part of a pipeline", "download the whole folder"))
    return found


def _need_file(file: Path) -> Path:
    if not file.is_file():
        raise ck.DatasetError(ck.Problem(str(file), "it is not there", "weights in safetensors", "download the whole folder"))
    return file


def _no_part(folder: Path, found: str, expected: str) -> ck.Problem:
    return ck.Problem(str(folder), found, expected, "download the whole folder anew")


@contextmanager
def _name_part(folder: Path) -> Iterator[None]:
    """One line for whatever fails within a part."""
    try:
        yield
    except ck.CorruptkitError:
        raise
    except Exception as error:  # noqa: BLE001 - each loader has errors of its own
        raise ck.DatasetError(
            _no_part(folder, f"cannot be loaded: {' '.join(str(error).split()):.160}", "a part as diffusers saves it")
        ) from None
