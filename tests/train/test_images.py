"""Images: decoded by rule, in an order that a seed and an image number decide, whoever reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import corruptkit as ck
from corruptkit_train.images import ImageConfig, Order, Pictures, Share, decode_image, read_batches
from tests.corruptkit.shards import Row, write_shards


def encode(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels, mode).save(held, kind)
    return held.getvalue()


def colour(number: int, height: int = 8, width: int = 8) -> np.ndarray:
    """A picture whose left column is darker, of a colour that only this number has."""
    pixels = np.full((height, width, 3), (number, 255 - number, 100), np.uint8)
    pixels[:, 0] = 0
    return pixels


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twenty images of 8 x 8 in two shards."""
    rows = [Row(f"{i:05d}", i % 4, f"colour {i}", encode(colour(10 * i))) for i in range(20)]
    write_shards(tmp_path / "src", rows, members=("png", "txt", "cls"))
    return tmp_path / "src"


def test_the_shorter_edge_is_scaled_and_the_square_is_centred() -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255
    image = decode_image(encode(pixels), ImageConfig(size=10))
    assert image.shape == (3, 10, 10)
    assert image[:, :, 1:-1].min() == 255


def test_a_crop_moves_along_the_longer_edge() -> None:
    pixels = np.repeat(np.arange(30, dtype=np.uint8)[None, :, None], 10, 0).repeat(3, 2)
    config = ImageConfig(size=10, crop="random")
    assert [int(decode_image(encode(pixels), config, place)[0, 0, 0]) for place in (0.0, 0.5, 0.999999)] == [0, 10, 20]


def test_transparency_lies_on_white_and_grey_becomes_what_is_asked() -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4, :, 3] = 255
    image = decode_image(encode(clear), ImageConfig(size=8))
    assert image[:, :4].max() == 0
    assert image[:, 4:].min() == 255
    grey = decode_image(encode(np.full((8, 8), 77, np.uint8)), ImageConfig(size=8))
    assert grey.shape == (3, 8, 8)
    assert set(grey.ravel().tolist()) == {77}
    assert decode_image(encode(clear), ImageConfig(size=8, channels=1)).shape == (1, 8, 8)
    palette = Image.fromarray(colour(50)).convert("P")
    palette.info["transparency"] = 0
    held = io.BytesIO()
    palette.save(held, "PNG", transparency=0)
    assert decode_image(held.getvalue(), ImageConfig(size=8)).shape == (3, 8, 8)


def test_an_order_is_a_permutation_for_each_epoch() -> None:
    order = Order(0, 1000)
    epochs = [order.rows_at(torch.arange(1000) + 1000 * epoch) for epoch in range(3)]
    for rows in epochs:
        assert rows.sort().values.tolist() == list(range(1000))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], Order(1, 1000).rows_at(torch.arange(1000)))
    # Any piece, across epochs too, and in any order of asking.
    assert torch.equal(Order(0, 1000).rows_at(torch.arange(2500, 990, -1)), torch.cat(epochs)[torch.arange(2500, 990, -1)])


def test_shares_of_all_ranks_are_the_batch() -> None:
    whole = [Share(24, 24).numbers(turn).tolist() for turn in range(2)]
    shares = [Share(24, 4, rank, 3) for rank in range(3)]
    assert shares[0].passes == 2
    for step in range(2):
        dealt = [number for share in shares for part in range(2) for number in share.numbers(2 * step + part).tolist()]
        assert sorted(dealt) == whole[step]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_neither_workers_nor_memory_show(source: Path, workers: int, keep: bool) -> None:
    dataset = ck.open_dataset(source)
    config = ImageConfig(size=8, flip=True)
    expected = list(read_batches(Pictures(dataset, config), Share(5, 5), range(9), seed=3))
    found = list(read_batches(Pictures(dataset, config, keep=keep), Share(5, 5), range(9), seed=3, workers=workers))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.numbers, other.numbers)


def test_a_batch_can_be_read_alone(source: Path) -> None:
    pictures = Pictures(ck.open_dataset(source), ImageConfig(size=8, flip=True, crop="random"))
    batches = list(read_batches(pictures, Share(5, 5), range(9), seed=3))
    again = next(read_batches(pictures, Share(5, 5), range(7, 9), seed=3))
    assert torch.equal(batches[7].images, again.images)


def test_half_of_the_images_are_flipped_anew_in_each_epoch(source: Path) -> None:
    pictures = Pictures(ck.open_dataset(source), ImageConfig(size=8, flip=True), keep=True)
    batches = list(read_batches(pictures, Share(20, 20), range(50), seed=3))
    flipped = torch.stack([batch.images[:, :, :, -1].amax((1, 2)) == 0 for batch in batches])
    assert 400 < int(flipped.sum()) < 600
    assert all(set(batch.images[:, 0, 0, 4].tolist()) == {10 * i for i in range(20)} for batch in batches)
    plain = Pictures(ck.open_dataset(source), ImageConfig(size=8), keep=True)
    assert all((batch.images[:, :, :, 0] == 0).all() for batch in read_batches(plain, Share(20, 20), range(3), seed=3))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    rows = [Row(f"{i:05d}", i % 4, f"colour {i}", encode(colour(10 * i))) for i in range(6)]
    rows[2] = rows[2]._replace(image=b"\x89PNG\r\n\x1a\nnot an image")
    rows[5] = rows[5]._replace(image=rows[5].image and rows[5].image[:45])
    write_shards(tmp_path / "src", rows, shards=1, members=("png", "txt", "cls"))
    return tmp_path / "src"


@pytest.mark.parametrize("keep", [False, True])
def test_an_undecodable_image_is_named(damaged: Path, keep: bool) -> None:
    with pytest.raises(ck.DatasetError, match=r"src, 0000[25]: an image that cannot be decoded .*expected a PNG.* bad = \"exclude\""):
        list(read_batches(Pictures(ck.open_dataset(damaged), ImageConfig(size=8), keep=keep), Share(6, 6), range(1), seed=0))


@pytest.mark.parametrize("keep", [False, True])
def test_the_next_row_stands_in_for_an_excluded_one(damaged: Path, keep: bool) -> None:
    pictures = Pictures(ck.open_dataset(damaged), ImageConfig(size=8, bad="exclude"), keep=keep)
    batch = next(read_batches(pictures, Share(6, 6), range(1), seed=0))
    rows = Order(0, 6).rows_at(torch.arange(6))
    assert batch.rows.tolist() == [{2: 3, 5: 0}.get(row, row) for row in rows.tolist()]
    assert batch.images[:, 0, 0, 4].tolist() == [10 * row for row in batch.rows.tolist()]


def test_images_that_are_all_bad_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "src", [Row(f"{i}", 0, "x", b"nothing") for i in range(3)], members=("png", "txt", "cls"))
    dataset, config = ck.open_dataset(tmp_path / "src"), ImageConfig(size=8, bad="exclude")
    with pytest.raises(ck.DatasetError, match="without an image that can be decoded"):
        Pictures(dataset, config, keep=True)
    with pytest.raises(ck.DatasetError, match="without an image that can be decoded"):
        Pictures(dataset, config).load(torch.arange(3), torch.arange(3), 0)


def test_a_bomb_is_an_undecodable_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match="decompression bomb"):
        decode_image(encode(colour(1)), ImageConfig(size=8))
