"""diffusers' UNets as denoisers: the condition comes as states, so that a perturbed vector passes like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from corruptkit_train.conditions import Condition
from corruptkit_train.models.class_embedder import ClassEmbedder

if TYPE_CHECKING:
    from corruptkit_train.models.configs import PixelUNetConfig, UNetConfig


@dataclass(frozen=True)
class TrainedText:
    """A text encoder of transformers that is trained along, and whether its attention leaves out padding."""

    network: nn.Module
    mask_padding: bool


class UNet(nn.Module):
    """A diffusers UNet with what it is trained with: a class table, a text encoder, or neither for states that come from outside."""

    def __init__(
        self,
        unet: UNet2DConditionModel | UNet2DModel,
        class_embedder: ClassEmbedder | None,
        *,
        mask_padding: bool = True,
        text: TrainedText | None = None,
    ) -> None:
        super().__init__()
        self.unet = unet
        self.class_embedder = class_embedder
        self.mask_padding = mask_padding
        self.text_encoder = None if text is None else text.network
        self.text_masks = text is not None and text.mask_padding
        self.crosses = isinstance(unet, UNet2DConditionModel)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size

    @property
    def classes(self) -> int | None:
        return None if self.class_embedder is None else int(self.class_embedder.config.classes)

    @property
    def width(self) -> int:
        return int(self.unet.config.cross_attention_dim if self.crosses else 4 * self.unet.config.block_out_channels[0])

    def train(self, mode: bool = True) -> UNet:  # noqa: FBT001, FBT002 - torch's signature
        """As any module, but for the text encoder, which stays in evaluation mode.

        All that the mode means to it is dropout, whose draws would be keyed by no image: a resumed run would be another one.
        """
        super().train(mode)
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def embed(self, condition: Condition) -> Tensor:
        """(B, 1, d) tokens or (B, d) vectors of classes; (B, T, d) states of token ids; the states of a text as they are."""
        if self.text_encoder is not None:
            assert condition.words is not None
            seen = condition.mask.long() if self.text_masks and condition.mask is not None else None
            hidden: Tensor = self.text_encoder(input_ids=condition.words, attention_mask=seen).last_hidden_state
            return hidden
        if self.class_embedder is not None:
            rows: Tensor = self.class_embedder(condition.ids)
            return rows
        assert condition.states is not None  # a network without a table was built for text
        return condition.states

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.crosses:
            # class_embed_type "identity": the vector is added to the time embedding as it is.
            added: Tensor = self.unet(sample, timestep, class_labels=states, return_dict=False)[0]
            return added
        tokens = states.unsqueeze(1) if states.ndim == 2 else states  # a pooled text is one token
        seen = mask if self.mask_padding else None
        out: Tensor = self.unet(sample, timestep, tokens, encoder_attention_mask=seen, return_dict=False)[0]
        return out

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()


def _describe_levels(config: UNetConfig | PixelUNetConfig, shape: tuple[int, int, int], attending: str) -> dict[str, Any]:
    """What diffusers' UNets have in common; a level with attention is of the `attending` kind, up as it is down."""
    kinds = [attending if attends else "DownBlock2D" for attends in config.attention]
    return {
        "sample_size": shape[1],
        "in_channels": shape[0],
        "out_channels": shape[0] * (2 if config.learned_variance else 1),
        "down_block_types": tuple(kinds),
        "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        "block_out_channels": config.channels,
        "layers_per_block": config.layers,
        "dropout": config.dropout,
        "norm_num_groups": config.norm_groups,
    }


def build_unet(
    config: UNetConfig, shape: tuple[int, int, int], classes: int | None, text_width: int | None, text: TrainedText | None = None
) -> UNet:
    """Cross-attention to one token of a class, or to the tokens of a text."""
    width = text_width or config.condition_width
    unet = UNet2DConditionModel(
        **_describe_levels(config, shape, "CrossAttnDownBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=config.heads,  # diffusers' name for the number of heads
    )
    embedder = None if classes is None else ClassEmbedder(classes=classes, width=width, as_token=True, std=config.table_std)
    return UNet(unet, embedder, mask_padding=config.mask_padding, text=text)


def build_pixel_unet(config: PixelUNetConfig, shape: tuple[int, int, int], classes: int) -> UNet:
    """The class vector is added to the time embedding, as in ADM (Dhariwal and Nichol, 2021)."""
    unet = UNet2DModel(
        **_describe_levels(config, shape, "AttnDownBlock2D"),
        attention_head_dim=config.head_width,
        class_embed_type="identity",
    )
    embedder = ClassEmbedder(classes=classes, width=4 * config.channels[0], as_token=False, std=config.table_std)
    return UNet(unet, embedder, mask_padding=False)
