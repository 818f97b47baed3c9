"""Images of a data set as tensors, in an order that is a function of (seed, image number).

An image number counts the images that a run has seen: n is the (n mod N)-th row of epoch n div N. Its row, crop and flip follow from
it alone, so that position needs no stored state and no number of workers, ranks or steps shows in what is read.
"""

from __future__ import annotations

import io
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader

import corruptkit as ck
from corruptkit_train.draws import draw_uniform, draw_words

_MOST_BAD = 1000  # undecodable images one after another: this is no set of images
_AHEAD = 2  # micro-batches that a thread has read before they are asked for


class ImageConfig(BaseModel):
    """How an image becomes a tensor: shorter edge to `size` (bicubic, antialiased), cropped to a square; transparency is laid on white."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Annotated[int, Field(ge=4, le=4096)]  # pixels a side
    channels: Literal[1, 3] = 3  # grey, or red, green and blue
    crop: Literal["center", "random"] = "center"  # where along the longer edge the square lies
    flip: bool = False  # left and right, for every second image
    bad: Literal["refuse", "exclude"] = "refuse"  # an image that cannot be decoded: stop, or take the next row in its place


@dataclass(frozen=True)
class Batch:
    """Images of one micro-batch, with their numbers in the run and their rows in the data set."""

    images: Tensor  # (B, C, H, W) uint8
    numbers: Tensor  # (B,) int64
    rows: Tensor  # (B,) int64

    def pin_memory(self) -> Batch:
        return Batch(self.images.pin_memory(), self.numbers, self.rows)


@dataclass(frozen=True)
class Share:
    """What one process reads: micro-batches of a global batch, dealt out to ranks in turn."""

    batch: int  # images of a step, over all ranks
    micro_batch: int  # images of a forward pass
    rank: int = 0
    world: int = 1

    @property
    def passes(self) -> int:
        """Forward passes of a step on each rank."""
        return self.batch // (self.micro_batch * self.world)

    def numbers(self, turn: int) -> Tensor:
        """Image numbers of this rank's forward pass `turn`, counted from the run's beginning."""
        step, part = divmod(turn, self.passes)
        first = step * self.batch + (part * self.world + self.rank) * self.micro_batch
        return torch.arange(first, first + self.micro_batch)


class Order:
    """Rows by image number: a permutation for each epoch, by the rank of 63 drawn bits (ties by row)."""

    def __init__(self, seed: int, rows: int) -> None:
        self.seed, self.rows = seed, rows
        self._epochs: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_epochs": {}}

    def rows_at(self, numbers: Tensor) -> Tensor:
        """(B,) int64 rows for (B,) int64 image numbers."""
        epochs = numbers // self.rows
        rows = torch.empty_like(numbers)
        for epoch in set(epochs.tolist()):
            here = epochs == epoch
            rows[here] = self._permutation(epoch)[numbers[here] % self.rows]
        return rows

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            words = draw_words(self.seed, "order", torch.arange(self.rows) + epoch * self.rows, 2)
            self._epochs = {known: rows for known, rows in self._epochs.items() if known == epoch - 1}
            self._epochs[epoch] = ((words[:, 0] << 31) | (words[:, 1] >> 1)).argsort(stable=True)
        return self._epochs[epoch]


class Feed(Protocol):
    """What a run reads by row, as it is stored, and makes clean samples of on the device: pixels, or cached latents."""

    @property
    def held(self) -> bool: ...  # no worker process is to read it
    @property
    def ahead(self) -> bool: ...  # a thread is
    def __len__(self) -> int: ...
    def load(self, rows: Tensor, numbers: Tensor, seed: int) -> tuple[Tensor, Tensor]: ...
    def prepare(self, images: Tensor, numbers: Tensor, seed: int) -> Tensor: ...


class Pictures:
    """Decoded images by row; with `keep`, decoded once and held (uint8), which a centre crop allows."""

    ahead = False

    def __init__(self, dataset: ck.Dataset, config: ImageConfig, *, keep: bool = False, watch: Any = None) -> None:
        self.dataset, self.config, self._held = dataset, config, None
        if keep and config.crop == "center":
            decoded = (self.decode(row, image) for row, image in enumerate(self._stored_images(watch)))
            self._held = fill_gaps(decoded, (len(dataset), config.channels, config.size, config.size), str(dataset.path))

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def held(self) -> bool:
        """Whether all of them are in memory: a copy for each worker would be slower than reading them here."""
        return self._held is not None

    def _stored_images(self, watch: Any) -> Iterator[bytes]:
        rows = self.dataset.rows()
        return (row.get("image", b"") for row in (watch(rows, len(self.dataset)) if watch else rows))

    def load(self, rows: Tensor, numbers: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) uint8 images, cropped and flipped as their numbers say, and the rows that they are of."""
        if self._held is not None:
            images, found = self._held[0][rows], self._held[1][rows]
        else:
            places = draw_uniform(seed, "crop", numbers).tolist() if self.config.crop == "random" else [None] * len(rows)
            loaded = [self._load_one(row, place) for row, place in zip(rows.tolist(), places, strict=True)]
            images, found = torch.from_numpy(np.stack([image for image, _ in loaded])), torch.tensor([row for _, row in loaded])
        if self.config.flip:
            turned = draw_uniform(seed, "flip", numbers) < 0.5
            images = torch.where(turned.view(-1, 1, 1, 1), images.flip(-1), images)
        return images, found

    def prepare(self, images: Tensor, numbers: Tensor, seed: int) -> Tensor:  # noqa: ARG002 - latents draw by these
        """(B, C, H, W) float32 in [-1, 1]."""
        return images.float().div_(127.5).sub_(1)

    def _load_one(self, row: int, place: float | None) -> tuple[np.ndarray, int]:
        for ahead in range(_MOST_BAD):
            number = (row + ahead) % len(self)
            image = self.decode(number, self.dataset.row(number).get("image", b""), place)
            if image is not None:
                return image, number
        raise _too_many_bad(str(self.dataset.path))

    def decode(self, row: int, content: bytes, place: float | None = None) -> np.ndarray | None:
        """(C, H, W) uint8, or None for a bad image that is to be passed over."""
        try:
            return decode_image(content, self.config, place)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if self.config.bad == "exclude":
                return None
            key = self.dataset.index().column("key")[row].as_py()
            reason = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)[:80] or type(error).__name__
            found = f"an image that cannot be decoded ({reason})" if content else "a row without an image"
            do = 'mend it, or state bad = "exclude" under [data]: the next row then takes its place'
            raise ck.DatasetError(ck.Problem(str(self.dataset.path), found, "a PNG, JPEG or WebP", do, key=key)) from None


def fill_gaps(images: Iterable[np.ndarray | None], shape: tuple[int, ...], where: str) -> tuple[Tensor, Tensor]:
    """All images, (N, C, H, W) uint8, and the row each is of: in the place of a missing one stands the next there is."""
    held = torch.empty(shape, dtype=torch.uint8)
    missing = []
    for row, image in enumerate(images):
        if image is None:
            missing.append(row)
        else:
            held[row] = torch.from_numpy(image)
    found = torch.from_numpy(find_next(missing, shape[0], where))
    for row in missing:
        held[row] = held[found[row]]
    return held, found


def find_next(missing: Iterable[int], count: int, where: str) -> np.ndarray:
    """(N,) int64: each row itself, but in the place of a missing one the next there is."""
    found, gaps = np.arange(count), {int(row) for row in missing}
    for row in gaps:
        ahead = next((ahead for ahead in range(1, _MOST_BAD) if (row + ahead) % count not in gaps), None)
        if ahead is None:
            raise _too_many_bad(where)
        found[row] = (row + ahead) % count
    return found


def _too_many_bad(where: str) -> ck.DatasetError:
    return ck.DatasetError(ck.Problem(where, f"{_MOST_BAD} rows one after another without an image that can be decoded", "images"))


def decode_image(content: bytes, config: ImageConfig, place: float | None = None) -> np.ndarray:
    """(C, size, size) uint8; `place` in [0, 1) is where along its longer edge the square lies (None: centred). EXIF is ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content)) as opened:
                image = _flatten(opened, "L" if config.channels == 1 else "RGB")
        except Image.DecompressionBombWarning as error:
            raise ValueError(str(error)) from None
    short = min(image.size)
    width, height = (max(config.size, round(edge * config.size / short)) for edge in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    spare = (width - config.size, height - config.size)
    left, top = (room // 2 if place is None else int(place * (room + 1)) for room in spare)
    pixels = np.asarray(image.crop((left, top, left + config.size, top + config.size)))
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    """An image in a mode without transparency, laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        solid = image.convert("RGBA")
        white = Image.new("RGBA", solid.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, solid)
    return image.convert(mode)


class _Turns:
    """A micro-batch for each turn, as a map-style data set of whole batches."""

    def __init__(self, pictures: Feed, order: Order, share: Share, seed: int) -> None:
        self.pictures, self.order, self.share, self.seed = pictures, order, share, seed

    def __getitem__(self, turn: int) -> Batch:
        numbers = self.share.numbers(turn)
        images, rows = self.pictures.load(self.order.rows_at(numbers), numbers, self.seed)
        return Batch(images, numbers, rows)


def read_batches(pictures: Feed, share: Share, turns: range, *, seed: int, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
    """The micro-batches of this rank for some turns, in order, whatever the number of workers."""
    source = _Turns(pictures, Order(seed, len(pictures)), share, seed)
    if pictures.ahead:
        return _read_ahead(source, turns, pin=pin)
    workers = 0 if pictures.held else workers
    how: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "spawn" if workers else None, "pin_memory": pin}
    return iter(DataLoader(source, sampler=turns, batch_size=None, **how))  # type: ignore[arg-type]


def _read_ahead(source: _Turns, turns: range, *, pin: bool) -> Iterator[Batch]:
    """The same, by a thread that reads the next while the step is made."""

    def read(turn: int) -> Batch:
        return source[turn].pin_memory() if pin else source[turn]

    with ThreadPoolExecutor(1, "read") as aside:
        waiting: deque[Future[Batch]] = deque()
        try:
            for turn in turns:
                waiting.append(aside.submit(read, turn))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
