"""Draws are Philox4x32-10, keyed by seed, purpose and image number alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corruptkit_train.draws import PURPOSES, draw_normal, draw_uniform, draw_words, mix_counter, mix_tensors

Mix = Callable[[list[Tensor], tuple[int, int]], list[Tensor]]

# The authors' known answers (Random123, kat_vectors, philox4x32 with 10 rounds): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("mix", [mix_counter, mix_tensors])
@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_authors_known_answers(mix: Mix, counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]) -> None:
    words = mix([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == expected


def test_a_cpu_and_any_other_device_mix_alike() -> None:
    words = draw_words(3, "labels", torch.arange(500), 4)
    counter = [part.contiguous() for part in words.unbind(1)]
    expected = mix_tensors([part.clone() for part in counter], (0x80000001, 0xFFFFFFFE))
    assert torch.equal(torch.stack(mix_counter(counter, (0x80000001, 0xFFFFFFFE))), torch.stack(expected))


def test_a_word_is_that_of_its_counter() -> None:
    """Seed, purpose, image number and block land in key and counter, however many are drawn at once."""
    seed, image = (0xFEDCBA98 << 32) | 0x76543210, (7 << 32) | 9
    drawn = draw_words(seed, "noise", torch.tensor([3, image]), 10)[1]
    blocks = [
        mix_counter([torch.tensor([word]) for word in (block, 9, 7, PURPOSES["noise"])], (0x76543210, 0xFEDCBA98)) for block in range(3)
    ]
    assert drawn.tolist() == [int(blocks[block][place]) for place in range(4) for block in range(3)][:10]


@pytest.mark.parametrize("draw", [draw_uniform, draw_normal])
def test_no_batch_shows(draw: object) -> None:
    images = torch.arange(50)
    together = draw(5, "noise", images, (3, 7))  # type: ignore[operator]
    apart = torch.cat([draw(5, "noise", part, (3, 7)) for part in images.split(13)])  # type: ignore[operator]
    assert torch.equal(together, apart)
    assert torch.equal(together[torch.tensor([9, 2])], draw(5, "noise", torch.tensor([9, 2]), (3, 7)))  # type: ignore[operator]


def test_chunks_of_a_large_draw_are_those_of_a_small_one() -> None:
    images = torch.arange(40)
    large = draw_normal(1, "start", images, (3, 64, 64))
    assert torch.equal(large[-1], draw_normal(1, "start", images[-1:], (3, 64, 64))[0])


def test_seeds_purposes_and_images_differ() -> None:
    images = torch.arange(4)
    drawn = {
        tuple(draw_words(seed, purpose, images[i : i + 1], 4)[0].tolist())
        for seed in (0, 1, 1 << 40)
        for purpose in PURPOSES
        for i in range(4)
    }
    assert len(drawn) == 3 * len(PURPOSES) * 4
    assert len(set(PURPOSES.values())) == len(PURPOSES)


def test_normal_numbers_have_their_moments() -> None:
    drawn = draw_normal(3, "noise", torch.arange(1000), (1000,)).double()
    assert abs(drawn.mean()) < 5 / 1000
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2) / 1000
    assert abs(drawn.pow(4).mean() - 3) < 5 * math.sqrt(96) / 1000
    # Halves of a pair, neighbours, and images are uncorrelated.
    for shifted in (drawn.roll(1, 1), drawn.roll(500, 1), drawn.roll(1, 0)):
        assert abs((drawn * shifted).mean()) < 5 / 1000


def test_uniform_numbers_fill_their_range() -> None:
    drawn = draw_uniform(3, "timestep", torch.arange(200_000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, 100, 0, 1).double()
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 160  # p = 1e-4 at 99 degrees of freedom


def test_odd_counts_and_none() -> None:
    assert draw_normal(0, "noise", torch.arange(3), (5,)).shape == (3, 5)
    assert draw_normal(0, "noise", torch.arange(3)).shape == (3,)
    assert draw_words(0, "noise", torch.arange(0), 4).shape == (0, 4)


def test_a_seed_for_each_image_is_each_seed_by_itself() -> None:
    """To the bit, with seeds that fill 63 bits."""
    seeds, images = [0, 7, (1 << 63) - 1], torch.arange(1000, 1005)
    together = draw_words(torch.tensor(seeds).repeat_interleave(5), "noise", images.repeat(3), 70)
    for place, seed in enumerate(seeds):
        assert torch.equal(together[place * 5 : place * 5 + 5], draw_words(seed, "noise", images, 70))
    first, *others = [part & 0xFFFFFFFF for part in (7, 7 >> 32)]
    counter = [torch.arange(4), torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.full((4,), 5)]
    keys = tuple(torch.full((4,), word) for word in (first, *others))
    one = mix_tensors([part.clone() for part in counter], (keys[0], keys[1]))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, mix_counter(counter, (7, 0)), strict=True))
