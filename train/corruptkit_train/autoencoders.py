"""Autoencoders: images in, moments of their latents out, each a function of its image alone, whatever batch it is in."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

import corruptkit as ck
from corruptkit_train.pretrained import one_thread, stays_offline, weights_sha256

# Every forward pass has as many images, so that its products have one shape and an image's moments are the same bits in each of them.
BATCH = 8
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_CLASSES = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
# diffusers writes its default into a VQModel's file where none was stated: the deviation of another network's latents, right for none.
_UNSTATED = 0.18215
# Fields that decide no moment: what latents are multiplied by afterwards, sizes for tiles, who wrote the file.
_CIRCUMSTANCE = {"scaling_factor", "shift_factor", "latent_magnitude", "latent_shift", "sample_size", "force_upcast"}


class AutoencoderConfig(BaseModel):
    """Which autoencoder, and what its latents are scaled by: (latents - shift) x scale, about unit variance, is what is learned."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    autoencoder: Annotated[str, Field(min_length=1)]  # a folder, or a repository of the Hub
    subfolder: str = ""  # of either, such as "vae" in a pipeline
    scale: Annotated[float, Field(gt=0)] | None = None  # default: as its config says; a VQModel's that states none: 1
    shift: float | None = None  # default: as its config says, else 0


@dataclass(frozen=True)
class Autoencoder:
    """A loaded autoencoder; its identity is all that decides moments, which scale and shift do not."""

    config: AutoencoderConfig
    identity: dict[str, str | int]
    model: Any
    scale: float
    shift: float
    channels: int  # of latents
    factor: int  # pixels of an image's edge for one of its latents'

    @property
    def digest(self) -> str:
        """The name of its moments' cache."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of images of `size` pixels a side. Raises CatalogError for a size that is no multiple of the factor."""
        if size % self.factor:
            found, expected = f"images of {size} pixels a side", f"a multiple of {self.factor}, by which the autoencoder divides it"
            raise ck.CatalogError(ck.Problem(self.config.autoencoder, found, expected, "change data.size"))
        return self.channels, size // self.factor, size // self.factor

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 (B, 3, H, W) to mean and deviation (B, C, h, w) of its latents, float32, unscaled; on a CPU by one thread.

        Only AutoencoderKL has deviations: a VQModel gives its output before quantisation. Raises IntegrityError for what is no number.
        """
        with torch.no_grad(), one_thread():
            moments = self._run(self._encode_batch, pixels)
        broken = (~moments.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
        if broken:
            found, do = f"moments that are no numbers, first of image {broken[0]} of {len(pixels)}", "use weights that are sound"
            raise ck.IntegrityError(ck.Problem(self.config.autoencoder, found, "finite ones", do))
        if moments.shape[1] == self.channels:
            return moments, None
        mean, deviation = moments.chunk(2, dim=1)
        return mean, deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled float32 (B, C, h, w) to images (B, 3, H, W) in [-1, 1], float32; a VQModel quantises first."""
        with torch.no_grad():
            return self._run(lambda part: self.model.decode(part / self.scale + self.shift).sample.clamp(-1, 1), latents)

    def _encode_batch(self, pixels: Tensor) -> Tensor:
        """(n, C, h, w), or (n, 2C, h, w) where there are deviations."""
        found = self.model.encode(pixels.float().div_(127.5).sub_(1))
        if hasattr(found, "latents"):
            return found.latents  # type: ignore[no-any-return] # diffusers' own class
        return torch.cat((found.latent_dist.mean, found.latent_dist.std), dim=1)

    def _run(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """A forward pass over images in batches of one shape, on the network's device; gives it on the images'."""
        device = self.model.device
        batch = count_rows(device)
        made = []
        with _exact_products(device):
            for start in range(0, max(1, len(images)), batch):
                part = images[start : start + batch]
                filled = torch.zeros(batch, *images.shape[1:], dtype=images.dtype, device=device)  # rows of padding fill the batch
                filled[: len(part)] = part
                made.append(forward(filled)[: len(part)].to(images.device))
        return torch.cat(made)


def count_rows(device: torch.device) -> int:
    """Images of a forward pass. A CPU gains nothing by more than one at a time; a GPU does."""
    return 1 if device.type == "cpu" else BATCH


def load_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """The autoencoder with its weights in float32, from safetensors alone; raises DatasetError where it is not there or is another kind."""
    place, how = _find_place(config)
    model = _load_model(place, how, _read_class(place, how))
    _check_model(place, model)
    fields = model.config
    scale, shift = _find_scale(place, config, model)
    identity: dict[str, str | int] = {
        "class": type(model).__name__,
        "network": _network_sha256(model),
        "weights": weights_sha256(model),
        "version": 1,  # of the way from pixels to moments
    }
    # AutoencoderTiny's block_out_channels are its decoder's; a stage halves the edges, but for the first.
    stages = fields.get("encoder_block_out_channels") or fields.block_out_channels
    channels = fields.get("vq_embed_dim") or fields.latent_channels
    return Autoencoder(config, identity, model, scale, shift, int(channels), 1 << (len(stages) - 1))


def _find_place(config: AutoencoderConfig) -> tuple[str, dict[str, Any]]:
    """A folder with all that is needed, else a repository's name; and how diffusers is to read it."""
    how: dict[str, Any] = {"local_files_only": stays_offline()}
    home = Path(config.autoencoder).expanduser()
    if home.is_dir():
        folder = home / config.subfolder
        _check_files(folder)
        return str(folder), how
    name = config.autoencoder
    if home.is_absolute() or home.exists() or name.startswith((".", "~")) or name.count("/") != 1:
        do = "mend the path, or name a repository as OWNER/NAME"
        raise ck.DatasetError(ck.Problem(name, "there is no such folder", "a folder of an autoencoder", do, key="autoencoder"))
    return name, how | ({"subfolder": config.subfolder} if config.subfolder else {})


def _check_files(folder: Path) -> None:
    """A folder's config, and its weights in safetensors; what is missing is named."""
    if not (folder / "config.json").is_file():
        inside = "state its subfolder, such as vae" if (folder / "model_index.json").is_file() else "name the folder of an autoencoder"
        raise ck.DatasetError(ck.Problem(str(folder / "config.json"), "it is not there", "an autoencoder's config.json", inside))
    if not (folder / _WEIGHTS).is_file() and not (folder / f"{_WEIGHTS}.index.json").is_file():
        others = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".ckpt", ".pt", ".pth", ".safetensors"})
        found = f"it is not there, but {others[0]}" if others else "it is not there"
        do = "save the autoencoder anew with diffusers: its safetensors run no code" if others else "put its weights there"
        raise ck.DatasetError(ck.Problem(str(folder / _WEIGHTS), found, "the autoencoder's weights", do))


def _read_class(place: str, how: Mapping[str, Any]) -> str:
    """The class that a config.json names; another than those that are known is refused."""
    from diffusers import AutoencoderKL

    with _explain_loading(place):
        found = AutoencoderKL.load_config(place, **how).get("_class_name")
    if found not in _CLASSES:
        raise ck.DatasetError(_no_autoencoder(place, f"it is of class {found}", f"one of {', '.join(_CLASSES)}"))
    return str(found)


def _load_model(place: str, how: Mapping[str, Any], name: str) -> Any:
    """The network with all of its weights; no code of theirs is run, no pickle read."""
    import diffusers

    with _explain_loading(place):
        loading: dict[str, Any] = {"use_safetensors": True, "torch_dtype": torch.float32, "output_loading_info": True}
        model, report = getattr(diffusers, name).from_pretrained(place, **loading, **how)
    lacking = sorted(report["missing_keys"])
    if lacking:
        raise ck.DatasetError(_no_autoencoder(place, f"{len(lacking)} weights are not in its files, such as {lacking[0]}"))
    return model.eval().requires_grad_(requires_grad=False)


def _check_model(place: str, model: Any) -> None:
    """Colours in and out are what is handed to it."""
    channels = (model.config.in_channels, model.config.out_channels)
    if channels != (3, 3):
        raise ck.DatasetError(_no_autoencoder(place, f"it turns {channels[0]} channels into {channels[1]}", "3 channels into 3"))


def _find_scale(place: str, config: AutoencoderConfig, model: Any) -> tuple[float, float]:
    """Scale and shift as they are told, else as the autoencoder's config says."""
    fields = model.config
    if fields.get("latents_mean") is not None and (config.scale is None or config.shift is None):
        found, do = "it states latents_mean, a number a channel", "state scale and shift"
        raise ck.DatasetError(ck.Problem(place, found, "one scale and one shift", do))
    scale = fields["scaling_factor"]
    if type(model).__name__ == "VQModel" and scale == _UNSTATED:
        scale = 1.0
    shift = fields.get("shift_factor") or 0.0
    return float(scale if config.scale is None else config.scale), float(shift if config.shift is None else config.shift)


@contextmanager
def _explain_loading(place: str) -> Iterator[None]:
    """One line for whatever diffusers says; its own log keeps silent meanwhile."""
    from diffusers.utils import logging as voice

    before = voice.get_verbosity()
    voice.set_verbosity(logging.CRITICAL)
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a hub that cannot be reached, a bad file, another shape: each has its own
        words = " ".join(str(error).split())
        raise ck.DatasetError(_no_autoencoder(place, words if len(words) <= 160 else f"{words[:160]}...")) from None
    finally:
        voice.set_verbosity(before)


def _no_autoencoder(place: str, words: str, expected: str = "weights in safetensors with their config.json") -> ck.Problem:
    return ck.Problem(place, f"no autoencoder could be loaded: {words}", expected, "give the folder of one that is there")


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """On a GPU: convolutions in float32 itself, by an algorithm that is not chosen by the clock."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        with flags if device.type == "cuda" else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _network_sha256(model: Any) -> str:
    """Of what the config states beside its class's defaults: a later diffusers may know more fields."""
    defaults = {name: given.default for name, given in inspect.signature(type(model).__init__).parameters.items()}
    left_out = _CIRCUMSTANCE | {name for name in model.config if name.startswith("_")}
    found = {name: value for name, value in model.config.items() if name in defaults and name not in left_out}
    stated = {name: value for name, value in found.items() if _plain(value) != _plain(defaults[name])}
    return hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any) -> str:
    """As JSON has it: a tuple of a default is the list of a file."""
    return json.dumps(value, default=str)
