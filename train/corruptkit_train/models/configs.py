"""The networks' frozen configurations, and their tagged union on `kind`; reading one costs no second of torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Flags = tuple[bool, ...]
Sizes = tuple[PositiveInt, ...]


class _Config(BaseModel):
    """What every network's configuration shares: `preset` names a row of `presets`, and fields beside it win."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    preset: str = Field(default="", exclude=True)  # empty once read: the resolved file states what the name stood for
    learned_variance: bool = False  # twice the channels: the second half interpolates between the bounds of the variance

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not data.get("preset"):
            return data
        if data["preset"] not in cls.presets:
            raise ValueError(f"found preset {data['preset']!r}, expected one of: {', '.join(cls.presets)}; choose one, or state its fields")
        return cls.presets[data["preset"]] | {name: value for name, value in data.items() if name != "preset"}


# Depth, width, heads: table 1 of the paper.
_DIT_SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}


class DiTConfig(_Config):
    """A diffusion transformer; `preset` is "DiT-S/2" to "DiT-XL/8"."""

    presets = {
        f"DiT-{name}/{patch}": {"kind": "dit", "depth": depth, "width": width, "heads": heads, "patch": patch}
        for name, (depth, width, heads) in _DIT_SIZES.items()
        for patch in (2, 4, 8)
    }
    kind: Literal["dit"] = "dit"
    depth: PositiveInt  # blocks
    width: PositiveInt  # of a token; also d, the width of a class's embedding
    heads: PositiveInt  # of attention
    patch: PositiveInt  # pixels a side that become a token
    text_layers: Literal[1, 2] = 1  # matrices between pooled text states and the network's width
    frequency_shift: Literal[0, 1] = 1  # 1 exports to diffusers' own class; 0 is how the paper's authors space frequencies
    norm_eps: float = Field(default=1e-6, gt=0, le=1e-3)  # of the norms before the MLPs

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"found width {self.width}, expected a multiple of 4 and of its {self.heads} heads; change one of them")
        return self


class _UNetConfig(_Config):
    """The shape of a UNet: a level for each number of channels, each at half the side of the one before."""

    channels: Sizes = Field(min_length=1)  # of each level
    layers: PositiveInt = 2  # residual blocks a level
    attention: Flags  # whether a level attends, for each
    dropout: float = Field(default=0.0, ge=0, lt=1)  # within residual blocks; other masks with other micro-batches
    norm_groups: PositiveInt = 32  # of group norms
    table_std: float = Field(default=1.0, gt=0)  # of the class table at the start; a perturbation's strength is relative to it

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if len(self.attention) != len(self.channels):
            found = f"found attention for {len(self.attention)} levels"
            raise ValueError(f"{found}, expected {len(self.channels)}; state one for each of channels")
        wrong = [count for count in self.channels if count % self.norm_groups]
        if wrong:
            raise ValueError(f"found {wrong[0]} channels, expected a multiple of norm_groups {self.norm_groups}; change one of them")
        return self


class UNetConfig(_UNetConfig):
    """A UNet whose levels with attention look at the condition's tokens; "LDM-4" is latent diffusion's for 64 x 64 x 3 latents."""

    presets = {
        "LDM-4": {"kind": "unet", "channels": [192, 384, 576, 960], "attention": [False, True, True, True], "heads": 1},
        "UNet-16": {"kind": "unet", "channels": [64, 128], "attention": [False, True], "condition_width": 128},
        "UNet-32": {"kind": "unet", "channels": [64, 128, 192], "attention": [False, True, True], "condition_width": 192},
        "UNet-64": {"kind": "unet", "channels": [64, 128, 192, 256], "attention": [False, False, True, True], "condition_width": 256},
    }
    kind: Literal["unet"] = "unet"
    heads: PositiveInt = 4  # of attention
    condition_width: PositiveInt = 512  # of the class table; text brings its own
    mask_padding: bool = True  # whether attention leaves out the tokens that only fill a caption up

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        for count, attends in zip(self.channels, self.attention, strict=True):
            if attends and count % self.heads:
                raise ValueError(f"found {count} channels, expected a multiple of heads {self.heads}; change one of them")
        return self


class PixelUNetConfig(_UNetConfig):
    """A UNet of pixels and classes: the class row, as wide as the time embedding (4 x the first channels), is added to it."""

    presets = {
        "Pixel-UNet-16": {"kind": "pixel-unet", "channels": [64, 128], "attention": [False, True]},
        "Pixel-UNet-32": {"kind": "pixel-unet", "channels": [64, 128, 192], "attention": [False, True, True]},
        "Pixel-UNet-64": {"kind": "pixel-unet", "channels": [64, 128, 192, 256], "attention": [False, False, True, True]},
    }
    kind: Literal["pixel-unet"] = "pixel-unet"
    head_width: PositiveInt = 32  # channels a head

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        for count, attends in zip(self.channels, self.attention, strict=True):
            if attends and count % self.head_width:
                raise ValueError(f"found {count} channels, expected a multiple of head_width {self.head_width}; change one of them")
        return self


class MLPConfig(_Config):
    """A residual MLP on flattened samples; many of them train at once. For few numbers a sample, such as latents; `v` is its objective."""

    kind: Literal["mlp"] = "mlp"
    depth: PositiveInt = 3  # blocks
    width: PositiveInt = 192  # of a block
    condition_width: PositiveInt = 64  # of the class table; text brings its own
    table_std: float = Field(default=0.02, gt=0)  # of the class table at the start; a perturbation's strength is relative to it


Model = Annotated[DiTConfig | UNetConfig | PixelUNetConfig | MLPConfig, Field(discriminator="kind")]
