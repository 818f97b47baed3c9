"""The networks: their configurations, and the function that builds one.

Nothing heavy is imported before a network is built, so that reading a configuration costs no second of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import corruptkit as ck
from corruptkit_train.models.configs import DiTConfig, MLPConfig, Model, PixelUNetConfig, UNetConfig

if TYPE_CHECKING:
    from torch import Tensor

    from corruptkit_train.models.dit import DiT
    from corruptkit_train.models.mlp import MLP
    from corruptkit_train.models.unet import TrainedText, UNet

__all__ = ["DiTConfig", "MLPConfig", "Model", "PixelUNetConfig", "UNetConfig", "build_model", "check_ids"]


def build_model(
    config: DiTConfig | UNetConfig | PixelUNetConfig | MLPConfig,
    *,
    shape: tuple[int, int, int],
    classes: int | None = None,
    text_width: int | None = None,
    tokens: bool = False,
    text: TrainedText | None = None,
    seed: int,
) -> DiT | UNet | MLP:
    """The network for (C, H, W) samples and K classes or text of `text_width`; its first weights are a function of the seed alone.

    `text` is an encoder that is trained along, whose weights stay as they are.
    """
    import torch

    _check_condition(config, classes, text_width, tokens=tokens)
    _check_shape(config, shape)
    # The CPU's generator draws and is put back: no other draw of the process notices.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if isinstance(config, DiTConfig):
            return _build_dit(config, shape, classes, text_width)
        if isinstance(config, MLPConfig):
            return _build_mlp(config, shape, classes, text_width)
        from corruptkit_train.models.unet import build_pixel_unet, build_unet

        if isinstance(config, UNetConfig):
            return build_unet(config, shape, classes, text_width, text)
        return build_pixel_unet(config, shape, int(classes or 0))


def check_ids(ids: Tensor, classes: int, file: str) -> None:
    """Refuse class ids outside [0, K], K being the null id; for ids as they come from the data, on the CPU: a network never checks."""
    outside = ids[(ids < 0) | (ids > classes)]
    if len(outside):
        found = f"class id {int(outside[0])}" + (f" and {len(outside) - 1} more" if len(outside) > 1 else "")
        raise ck.DatasetError(ck.Problem(file, found, f"0 to {classes - 1}", "mend the labels, or state more classes"))


def _build_dit(config: DiTConfig, shape: tuple[int, int, int], classes: int | None, text_width: int | None) -> DiT:
    from corruptkit_train.models.dit import DiT

    network: DiT = DiT(
        sample_size=shape[1],
        in_channels=shape[0],
        patch=config.patch,
        depth=config.depth,
        hidden_width=config.width,
        heads=config.heads,
        classes=classes,
        text_width=text_width,
        text_layers=config.text_layers,
        learned_variance=config.learned_variance,
        frequency_shift=config.frequency_shift,
        norm_eps=config.norm_eps,
    )
    return network


def _build_mlp(config: MLPConfig, shape: tuple[int, int, int], classes: int | None, text_width: int | None) -> MLP:
    from corruptkit_train.models.mlp import MLP

    network: MLP = MLP(
        sample_size=shape[1],
        in_channels=shape[0],
        depth=config.depth,
        hidden_width=config.width,
        condition_width=config.condition_width,
        classes=classes,
        text_width=text_width,
        table_std=config.table_std,
        learned_variance=config.learned_variance,
    )
    return network


def _check_condition(
    config: DiTConfig | UNetConfig | PixelUNetConfig | MLPConfig, classes: int | None, text_width: int | None, *, tokens: bool
) -> None:
    if (classes is None) == (text_width is None) or (classes is not None and classes < 1):
        found = f"{classes} classes and text of width {text_width}"
        raise ck.CatalogError(ck.Problem("model", found, "one class or more, or text", "choose one condition"))
    if isinstance(config, DiTConfig | MLPConfig) and tokens:
        raise ck.CatalogError(
            ck.Problem("model", f"kind '{config.kind}' with token states", "pooled states", "pool the text, or choose kind 'unet'")
        )
    if isinstance(config, PixelUNetConfig) and classes is None:
        raise ck.CatalogError(ck.Problem("model", "kind 'pixel-unet' with text", "classes", "choose kind 'unet' or 'dit'"))


def _check_shape(config: DiTConfig | UNetConfig | PixelUNetConfig | MLPConfig, shape: tuple[int, int, int]) -> None:
    """Refuse samples that are not square, or whose side the patches or the levels do not divide."""
    if isinstance(config, UNetConfig | PixelUNetConfig):
        step = 2 ** (len(config.channels) - 1)
    else:
        step = config.patch if isinstance(config, DiTConfig) else 1
    if shape[1] != shape[2] or shape[1] % step:
        found, expected = f"samples of {shape[1]} x {shape[2]}", f"a square side divisible by {step}"
        what = "patch" if isinstance(config, DiTConfig) else "channels"
        raise ck.CatalogError(ck.Problem("model", found, expected, f"change {what} or the size"))
