"""Token ids of captions, for a text encoder that is trained along: its states change with every step, the ids never do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from corruptkit_train.caption_cache import unique_captions

_PIECE = 8192  # captions whose lists of ids are held at once


class Splits(Protocol):
    """What makes token ids of captions."""

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class WordTable:
    """The token ids of U captions, and which of them each of N rows has. 4 T bytes a caption: a million of 77 tokens are 308 MB."""

    words: Tensor  # (U, T) int32, padding behind a caption's own
    lengths: Tensor  # (U,) int64, of a caption without its padding
    places: npt.NDArray[np.int64]  # (N,) row -> caption
    null: int  # the place of the empty caption


def split_captions(encoder: Splits, captions: Sequence[str] | pa.Array | pa.ChunkedArray) -> WordTable:
    """The table of these captions and of the empty one."""
    unique, places, null = unique_captions(captions)
    pieces = []
    for start in range(0, len(unique), _PIECE):
        words, mask = encoder.tokenize(unique[start : start + _PIECE])
        pieces.append((words.int(), mask.sum(dim=1)))
    return WordTable(torch.cat([words for words, _ in pieces]), torch.cat([lengths for _, lengths in pieces]), places, null)
