"""Counter-based randomness: every draw is a function of (seed, purpose, image number), whoever asks and whenever.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011): the seed is its key; block, image number and purpose are its counter. There is
no stream and no state, so that a run resumes without stored generators and does not depend on workers, ranks or the batch size.
Words are equal to the bit on every device; normal numbers differ between a CPU and a GPU by rounding (log, cos, sin).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A purpose is a word of the counter: numbers are never given anew, so that a new purpose changes no draw of the others.
PURPOSES = {
    "order": 1,
    "flip": 2,
    "crop": 3,
    "timestep": 4,
    "noise": 5,
    "dropout": 6,
    "perturbation": 7,
    "input": 8,
    "embedding": 9,
    "weights": 10,
    "start": 11,
    "labels": 12,
    "step": 13,
    "share": 14,
    "posterior": 15,
    "units": 16,
}
_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK = 1 << 15  # counters at a time on a CPU: eight arrays of them stay in the second-level cache


Seed = int | Tensor  # one for all images, or (B,) int64: one for each


def draw_words(seed: Seed, purpose: str, images: Tensor, count: int) -> Tensor:
    """(B, count) int64 in [0, 2^32) for (B,) int64 image numbers: the first words of all blocks, then the second words, and so on."""
    blocks = -(-count // 4)
    words = torch.empty(len(images), 4, blocks, dtype=torch.int64, device=images.device)
    for rows in _chunk_rows(len(images), blocks, images.device):
        number = images[rows].unsqueeze(1).expand(-1, blocks)
        block = torch.arange(blocks, device=images.device).expand(len(number), -1)
        own = seed[rows].unsqueeze(1) if isinstance(seed, Tensor) else seed
        for place, mixed in enumerate(_mix_words(block, number, PURPOSES[purpose], own)):
            words[rows, place] = mixed
    return words.flatten(1)[:, :count]


def draw_uniform(seed: Seed, purpose: str, images: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """(B, *shape) float32 in [0, 1): 24 bits of a word each."""
    words = draw_words(seed, purpose, images, math.prod(shape))
    return ((words >> 8).to(torch.float32) * 2.0**-24).view(len(images), *shape)


def draw_normal(seed: Seed, purpose: str, images: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """(B, *shape) float32, standard normal (Box and Muller, 1958: two words a pair, so at most 6.8 in size)."""
    count = math.prod(shape)
    half = -(-count // 4) * 2
    words = draw_words(seed, purpose, images, 2 * half)
    radius = words[:, :half].to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = words[:, half:].to(torch.float32).mul_(2.0 * math.pi * 2.0**-32)
    pairs = torch.cat((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)
    return pairs[:, :count].reshape(len(images), *shape)


def _chunk_rows(rows: int, blocks: int, device: torch.device) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, blocks)) if device.type == "cpu" else rows or 1
    return (slice(start, start + step) for start in range(0, rows, step))


def _mix_words(block: Tensor, number: Tensor, purpose: int, seed: Seed) -> list[Tensor]:
    """Philox4x32-10 of the counter (block, low and high word of the image number, purpose) under the key `seed`."""
    counter = [block & _MASK, number & _MASK, (number >> 32) & _MASK, torch.full_like(block, purpose)]
    mix = mix_counter if block.device.type == "cpu" else mix_tensors
    return mix([part.contiguous() for part in counter], (seed & _MASK, (seed >> 32) & _MASK))


def mix_counter(counter: list[Tensor], key: tuple[Seed, Seed]) -> list[Tensor]:
    """Ten rounds of Philox4x32, in place, over int64 tensors of a CPU that hold 32-bit words.

    NumPy, whose calls cost a third of torch's, and whose unsigned shifts leave no sign to be masked away.
    """
    first, second, third, fourth = (part.numpy().view(np.uint64) for part in counter)
    low, high = np.empty_like(first), np.empty_like(first)
    multipliers, mask, shift = [np.uint64(factor) for factor in _MULTIPLIERS], np.uint64(_MASK), np.uint64(32)
    for turn in range(_ROUNDS):
        keys = [_key_words((part + turn * weyl) & _MASK) for part, weyl in zip(key, _WEYL, strict=True)]
        np.multiply(first, multipliers[0], out=low)
        np.multiply(third, multipliers[1], out=high)
        for words, other, added in ((first, second, keys[0]), (third, fourth, keys[1])):
            np.right_shift(high if words is first else low, shift, out=words)
            np.bitwise_xor(words, other, out=words)
            np.bitwise_xor(words, added, out=words)
        np.bitwise_and(high, mask, out=second)
        np.bitwise_and(low, mask, out=fourth)
    return counter


def _key_words(key: Seed) -> np.uint64 | np.ndarray[Any, np.dtype[np.uint64]]:
    """A key's word, or (B, 1) of them: one for each image."""
    return key.numpy().view(np.uint64) if isinstance(key, Tensor) else np.uint64(key)


def mix_tensors(counter: list[Tensor], key: tuple[Seed, Seed]) -> list[Tensor]:
    """The same on any device."""
    first, second, third, fourth = counter
    low, high = torch.empty_like(first), torch.empty_like(first)
    for turn in range(_ROUNDS):
        keys = [(part + turn * weyl) & _MASK for part, weyl in zip(key, _WEYL, strict=True)]
        # A product of two 32-bit words fills an int64; the shift keeps its sign, the mask takes it away.
        torch.mul(first, _MULTIPLIERS[0], out=low)
        torch.mul(third, _MULTIPLIERS[1], out=high)
        torch.bitwise_right_shift(high, 32, out=first).bitwise_and_(_MASK).bitwise_xor_(second).bitwise_xor_(keys[0])
        torch.bitwise_right_shift(low, 32, out=third).bitwise_and_(_MASK).bitwise_xor_(fourth).bitwise_xor_(keys[1])
        torch.bitwise_and(high, _MASK, out=second)
        torch.bitwise_and(low, _MASK, out=fourth)
    return [first, second, third, fourth]
