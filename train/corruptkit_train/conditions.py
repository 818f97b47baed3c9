"""What a network is told about each image, in a fixed order: corruption -> dropout -> embed -> perturbation -> network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor, where

import corruptkit as ck
from corruptkit_train.caption_cache import CaptionTable, Encodes, Watch, embed_captions
from corruptkit_train.columns import column_of_captions, read_labels
from corruptkit_train.draws import Seed, draw_uniform
from corruptkit_train.encoders import Encoder, TextEncoder, load_encoder
from corruptkit_train.perturbation import Perturbation, perturb
from corruptkit_train.words import WordTable, split_captions

Redraw = Callable[[int], ck.Dataset]  # the data set as its conditions are in an epoch
Table = CaptionTable | WordTable
Held = TypeVar("Held")


@dataclass(frozen=True)
class Condition:
    """The conditions of B images: class ids, states of a text encoder, or token ids for one that is trained along; one of the three."""

    ids: Tensor | None = None  # (B,) int64; the null id where dropped
    states: Tensor | None = None  # (B, D) pooled or (B, T, D) tokens; the empty caption's where dropped
    mask: Tensor | None = None  # (B, T) bool, True where a token is; None for pooled states and classes
    words: Tensor | None = None  # (B, T) int64; the empty caption's where dropped

    def __len__(self) -> int:
        for part in (self.ids, self.states, self.words):
            if part is not None:
                return len(part)
        return 0

    def dropped(self, where_dropped: Tensor, null: Condition) -> Condition:
        """This condition with `null` (a condition of one row) where the (B,) bool mask says so."""
        if self.ids is not None and null.ids is not None:
            return replace(self, ids=where(where_dropped, null.ids, self.ids))
        mask = None if self.mask is None or null.mask is None else where(where_dropped.unsqueeze(1), null.mask, self.mask)
        if self.words is not None and null.words is not None:
            return replace(self, words=where(where_dropped.unsqueeze(1), null.words, self.words), mask=mask)
        if self.states is None or null.states is None:
            raise ValueError("found conditions of two kinds, expected one")
        states = where(where_dropped.view(-1, *[1] * (self.states.ndim - 1)), null.states, self.states)
        return replace(self, states=states, mask=mask)

    def to(self, device: torch.device | str) -> Condition:
        return self._each(lambda part: copy_tensor(part, device))

    def take(self, rows: Tensor) -> Condition:
        return self._each(lambda part: part[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        return Condition(*(None if part is None else change(part) for part in self.parts()))

    def parts(self) -> tuple[Tensor | None, ...]:
        return self.ids, self.states, self.mask, self.words


def copy_tensor(part: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; to a GPU from pinned memory, so that the processor does not wait for the copy."""
    if part.device.type == "cpu" and torch.device(device).type == "cuda":
        return part.pin_memory().to(device, non_blocking=True)
    return part.to(device)


Tell = Callable[[Sequence[str]], Condition]  # class numbers in decimal, or captions


class Conditions(Protocol):
    """Conditions by row of a data set; `null` is of one row, and means that nothing is told."""

    @property
    def null(self) -> Condition: ...
    @property
    def classes(self) -> int | None: ...  # K, so that K is also the null id; None for text
    def __len__(self) -> int: ...
    def at(self, rows: Tensor | np.ndarray, epoch: int) -> Condition: ...


class _Epochs(Generic[Held]):
    """What is read anew for each epoch; two are held, since a batch may lie across their border."""

    def __init__(self, read: Callable[[int], Held], *, redrawn: bool) -> None:
        self._read, self._redrawn = read, redrawn
        self._held: dict[int, Held] = {}

    def at(self, epoch: int) -> Held:
        epoch = epoch if self._redrawn else 0
        if epoch not in self._held:
            self._held = {known: held for known, held in self._held.items() if known == epoch - 1}
            self._held[epoch] = self._read(epoch)
        return self._held[epoch]


class ClassConditions:
    """Class ids by row, from the labels (N,) int64 of an epoch; the null id is K."""

    def __init__(self, read: Callable[[int], Tensor], classes: int, rows: int, *, redrawn: bool = False) -> None:
        self.classes, self.null = classes, Condition(ids=torch.tensor([classes]))
        self._labels, self._rows = _Epochs(read, redrawn=redrawn), rows

    def __len__(self) -> int:
        return self._rows

    def at(self, rows: Tensor | np.ndarray, epoch: int = 0) -> Condition:
        return Condition(ids=self._labels.at(epoch)[torch.as_tensor(rows)])


class TextConditions:
    """States of captions by row, in float32, or token ids for `trained`, from the table of an epoch; null is the empty caption."""

    classes = None

    def __init__(
        self, read: Callable[[int], Table], null: Condition, rows: int, *, redrawn: bool = False, trained: Encoder | None = None
    ) -> None:
        self.null, self.trained = null, trained
        self._tables, self._rows = _Epochs(read, redrawn=redrawn), rows

    def __len__(self) -> int:
        return self._rows

    def at(self, rows: Tensor | np.ndarray, epoch: int = 0) -> Condition:
        table = self._tables.at(epoch)
        return _table_rows(table, torch.from_numpy(table.places)[torch.as_tensor(rows)])


def _table_rows(table: Table, places: Tensor) -> Condition:
    if isinstance(table, WordTable):
        lengths = table.lengths[places].unsqueeze(1)
        return Condition(words=table.words[places].long(), mask=torch.arange(table.words.shape[1]) < lengths)
    return Condition(states=table.states[places].float(), mask=None if table.mask is None else table.mask[places])


class ConditionChoice(Protocol):
    """What a run's configuration says of conditions."""

    @property
    def kind(self) -> Literal["class", "text"]: ...
    @property
    def encoder(self) -> TextEncoder: ...
    @property
    def each_epoch(self) -> str: ...


def open_conditions(
    config: ConditionChoice,
    dataset: ck.Dataset,
    folder: Path,
    *,
    file: str = "",
    encoder: Encoder | None = None,
    watch: Watch | None = None,
) -> ClassConditions | TextConditions:
    """The conditions of a data set; `folder` keeps the states of captions, `file` is what messages call the data set.

    `encoder` is the one of `config`, where it is loaded already.
    With `each_epoch`, a recipe's path, they are corrupted anew for every epoch.
    """
    recipe = read_recipe(config)
    redraw: Redraw | None = None
    if recipe is not None:
        redraw = lambda epoch: dataset.with_recipe(recipe, epoch=epoch)  # noqa: E731 - closes over the recipe
    if config.kind == "class":
        return open_classes(dataset, file=file, redraw=redraw)
    return open_texts(dataset, encoder or load_encoder(config.encoder), folder, redraw=redraw, watch=watch)


def read_recipe(config: ConditionChoice) -> ck.Recipe | None:
    """The recipe of each epoch, if there is one; one that never changes what the network is told is refused with CatalogError."""
    if not config.each_epoch:
        return None
    recipe = ck.load_recipe(Path(config.each_epoch))
    field = "label" if config.kind == "class" else "caption"
    changed = {"label" if stage.kind == "flip" or stage.mode == "label" else "caption" for stage in recipe.chain}
    if field not in changed:
        found = f"a recipe of {' and '.join(stage.kind for stage in recipe.chain)}, which changes no {field}"
        raise ck.CatalogError(
            ck.Problem(config.each_epoch, found, f"one of {field}s", f"condition.kind is '{config.kind}': change one of them")
        )
    return recipe


def open_classes(dataset: ck.Dataset, *, classes: int | None = None, file: str = "", redraw: Redraw | None = None) -> ClassConditions:
    """Class ids by row; K is the index's own (declared, or the largest label + 1) unless it is stated."""
    known = dataset.index().meta.classes
    if known is None:
        found, do = "no row has a label", "choose a data set with labels, or train on captions"
        raise ck.DatasetError(ck.Problem(file or str(dataset.path), found, "a label in every row", do))
    count = known if classes is None else classes

    def read(epoch: int) -> Tensor:
        return read_labels(dataset if redraw is None else redraw(epoch), known, count)

    provider = ClassConditions(read, count, len(dataset), redrawn=redraw is not None)
    provider.at(torch.arange(0))  # a label that is no class is refused now, not in the midst of a run
    return provider


def open_texts(
    dataset: ck.Dataset, encoder: Encodes, folder: Path, *, redraw: Redraw | None = None, watch: Watch | None = None
) -> TextConditions:
    """States of captions by row; those that `folder` lacks are encoded now (of later epochs: when the epoch begins)."""

    def read(epoch: int) -> Table:
        return read_captions(dataset if redraw is None else redraw(epoch), encoder, folder, watch)

    table = read_captions(dataset, encoder, folder, watch)
    null = _table_rows(table, torch.tensor([table.null]))
    trained = encoder if _learns(encoder) else None
    return TextConditions(read if redraw else lambda _: table, null, len(dataset), redrawn=redraw is not None, trained=trained)


def _learns(encoder: Encodes) -> TypeGuard[Encoder]:
    return isinstance(encoder, Encoder) and encoder.config.train


def read_captions(dataset: ck.Dataset, encoder: Encodes, folder: Path, watch: Watch | None = None) -> Table:
    """The table of a data set's captions: of states, or of token ids where the encoder is trained along."""
    captions = column_of_captions(dataset)
    return split_captions(encoder, captions) if _learns(encoder) else embed_captions(encoder, captions, folder, watch=watch)


def null_conditions(config: ConditionChoice, classes: int | None, tell: Tell | None = None) -> ClassConditions | TextConditions:
    """Conditions of no rows, for sampling without data: their null condition is the run's. `tell` saves loading its encoder again."""
    if config.kind == "class":
        return ClassConditions(lambda _: torch.empty(0, dtype=torch.int64), classes or 0, 0)
    told = tell or open_words(config)
    null = told([""])
    none, trained = np.empty(0, np.int64), told.encoder if isinstance(told, Teller) and config.encoder.train else None
    if null.words is not None and null.mask is not None:
        words = WordTable(null.words, null.mask.sum(1), none, 0)
        return TextConditions(lambda _: words, null, 0, trained=trained)
    assert null.states is not None
    table = CaptionTable(null.states, null.mask, none, 0)
    return TextConditions(lambda _: table, null, 0)


def open_words(config: ConditionChoice) -> Tell:
    """What gives the condition of each class number or caption, rounded as those are that are trained on."""
    if config.kind == "class":
        return lambda words: Condition(ids=torch.tensor([int(word) for word in words], dtype=torch.int64))
    return Teller(load_encoder(config.encoder))


@dataclass(frozen=True)
class Teller:
    """Gives the condition of captions by an encoder: their states, or their token ids where it is trained along."""

    encoder: Encoder

    def __call__(self, captions: Sequence[str]) -> Condition:
        if self.encoder.config.train:
            words, mask = self.encoder.tokenize(captions)
            return Condition(words=words, mask=mask)
        states, mask_or_none = self.encoder.encode(captions)
        return Condition(states=states.half().float(), mask=mask_or_none)


def encode_words(config: ConditionChoice, words: Sequence[str]) -> Condition:
    """The same where there are no others to come."""
    return open_words(config)(words)


def conditions_of(conditions: Conditions, rows: Tensor, epochs: Tensor) -> Condition:
    """The conditions of rows (B,), each in its epoch (B,), in their order."""
    found = torch.unique(epochs).tolist()
    if len(found) == 1:
        return conditions.at(rows, found[0])
    parts = [conditions.at(rows[epochs == epoch], epoch) for epoch in found]
    # The parts stand one after another by epoch: put each row back where it was.
    order = torch.cat([(epochs == epoch).nonzero().flatten() for epoch in found]).argsort()
    columns = zip(*(part.parts() for part in parts), strict=True)
    joined: list[Any] = [None if column[0] is None else torch.cat(column) for column in columns]
    return Condition(*joined).take(order)


def drop_conditions(condition: Condition, null: Condition, images: Tensor, rate: float | Tensor, seed: Seed) -> tuple[Condition, Tensor]:
    """The condition with `null` where an image's one draw is below the rate, and the (B,) bool mask of those rows."""
    # A draw lies in [0, 1): none is below a rate of 0, all are below 1.
    mask = draw_uniform(seed, "dropout", images) < rate
    return condition.dropped(mask, null), mask


def null_rows(condition: Condition, null: Condition) -> Tensor:
    """(B,) bool: where the network is told nothing, because the row was dropped, or had a null label or an empty caption."""
    if condition.ids is not None and null.ids is not None:
        return condition.ids == null.ids
    if condition.words is not None and null.words is not None:
        return (condition.words == null.words).all(dim=1)
    assert condition.states is not None
    assert null.states is not None
    return (condition.states == null.states).flatten(1).all(dim=1)


class Embeds(Protocol):
    """What embedding asks of a denoiser."""

    @property
    def classes(self) -> int | None: ...
    def embed(self, condition: Condition) -> Tensor: ...


class Embedded(NamedTuple):
    """What the network is given, which rows were dropped, and what is worth a line in the log."""

    states: Tensor  # (B, D) or (B, T, D)
    mask: Tensor | None  # (B, T) bool
    dropped: Tensor  # (B,) bool
    measures: dict[str, Tensor]


def embed_conditions(  # noqa: PLR0913 - what keys the draws, by name
    denoiser: Embeds,
    condition: Condition,
    null: Condition,
    perturbations: Sequence[Perturbation],
    *,
    images: Tensor,
    rows: Tensor,
    rate: float,
    seed: int,
    training: bool = True,
) -> Embedded:
    """Corrupted conditions on their way to the network: dropout, decided once for each image, then embedding, then perturbation."""
    condition, dropped = drop_conditions(condition, null, images, rate if training else 0.0, seed)
    states = denoiser.embed(condition)
    table = None
    if denoiser.classes is not None and any(part.kind == "smoothing" for part in perturbations):
        # The K classes without the null row: label smoothing mixes a class with their mean.
        table = denoiser.embed(Condition(ids=torch.arange(denoiser.classes, device=states.device)))
    # Rows are null by what the network sees: one dropped in the data is no class either.
    none = null_rows(condition, null)
    states, measures = perturb(perturbations, states, images=images, rows=rows, dropped=none, seed=seed, table=table, training=training)
    return Embedded(states, condition.mask, dropped, measures)
