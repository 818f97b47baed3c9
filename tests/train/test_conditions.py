"""Conditions: by row and epoch, as the plan says; dropped once for each image; embedded and perturbed in one order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import corruptkit as ck
from corruptkit_train import conditions as module
from corruptkit_train.caption_cache import embed_captions
from corruptkit_train.conditions import (
    Condition,
    conditions_of,
    drop_conditions,
    embed_conditions,
    encode_words,
    null_conditions,
    null_rows,
    open_classes,
    open_conditions,
    open_texts,
)
from corruptkit_train.encoders import TextEncoder, load_encoder
from corruptkit_train.perturbation import Cep, EmbeddingDropout, LabelSmoothing
from tests.corruptkit.shards import Row, make_rows, write_shards
from tests.train.test_caption_cache import Counted

FLIP = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.3")])
SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="0.3")])
NO_LABELS = ck.Recipe(seed=0, chain=[ck.Drop(ratio="0.3", mode="label")])
NO_CAPTIONS = ck.Recipe(seed=0, chain=[ck.Drop(ratio="0.3")])
ROWS = 120


@dataclass(frozen=True)
class Choice:
    """What a run's configuration says of conditions."""

    kind: Any = "text"
    encoder: TextEncoder = field(default_factory=TextEncoder)
    each_epoch: str = ""


@pytest.fixture
def source(tmp_path: Path) -> ck.Dataset:
    """Rows of ten classes, with captions that are all their own, in shards whose order is not that of keys."""
    rows = make_rows(ROWS, captions=10**6)
    write_shards(tmp_path / "source", rows[::-1])
    return ck.open_dataset(tmp_path / "source")


@pytest.fixture
def encoder(tiny: Path) -> Counted:
    return Counted(load_encoder(TextEncoder(name=str(tiny), max_tokens=16)))


def keys_of(dataset: ck.Dataset) -> list[str]:
    keys: list[str] = dataset.index().column("key").to_pylist()
    return keys


def labels_by_key(dataset: ck.Dataset, ids: Tensor) -> dict[str, int]:
    return dict(zip(keys_of(dataset), ids.tolist(), strict=True))


EVERY = torch.arange(ROWS)


def test_class_ids_are_the_labels_of_rows(source: ck.Dataset) -> None:
    found = open_classes(source)
    assert (found.classes, len(found), found.null.ids.tolist()) == (10, ROWS, [10])
    ids = found.at(EVERY).ids
    assert ids.tolist() == [row["label"] for row in source.rows()]
    some = np.array([7, 3, 3, 110])
    assert found.at(some, 5).ids.tolist() == [source.row(int(row))["label"] for row in some]


@pytest.mark.parametrize("written", [False, True])
def test_the_same_key_has_what_the_plan_says_in_a_clean_and_a_corrupted_run(source: ck.Dataset, tmp_path: Path, written: bool) -> None:
    plan = ck.make_plan(FLIP, source.index())
    variant = source.with_recipe(FLIP)
    if written:
        ck.write_variant(source, plan, tmp_path / "variant")
        variant = ck.open_dataset(tmp_path / "variant")
    clean, corrupted = (labels_by_key(data, open_classes(data).at(EVERY).ids) for data in (source, variant))
    edits = {edit["key"]: (int(edit["old"]), int(edit["new"])) for edit in plan.edits.to_pylist()}
    assert len(edits) == 36
    for key, label in clean.items():
        assert (label, corrupted[key]) == edits.get(key, (label, label))


def test_a_null_label_of_the_data_is_the_null_id(source: ck.Dataset) -> None:
    variant = source.with_recipe(NO_LABELS)
    found = open_classes(variant)
    ids = found.at(EVERY).ids
    assert int((ids == found.null.ids).sum()) == 36
    wider = open_classes(variant, classes=15)
    assert torch.equal(wider.at(EVERY).ids, torch.where(ids == 10, 15, ids))
    assert torch.equal(null_rows(Condition(ids=ids), found.null), ids == 10)


def refusal(call: Any, *args: Any, **how: Any) -> str:
    with pytest.raises(ck.DatasetError) as found:
        call(*args, **how)
    assert "\n" not in str(found.value)
    return str(found.value)


def test_a_label_outside_the_classes_is_refused_with_its_file_and_key(source: ck.Dataset, tmp_path: Path) -> None:
    first = next(row for row, label in enumerate(source.index().numbers("label").tolist()) if label >= 8)
    shard, key = source.shards[int(source.index().numbers("shard")[first])], keys_of(source)[first]
    words = refusal(open_classes, source, classes=8)
    label = source.row(first)["label"]
    assert words == f"{shard}, {key}: label {label}, expected labels below 8 (24 rows have none); mend the labels or state more classes"
    rows = [Row("a", 0, "x"), Row("b", None, "y"), Row("c", 1, "z")]
    write_shards(tmp_path / "gaps", rows)
    words = refusal(open_classes, ck.open_dataset(tmp_path / "gaps"))
    assert "b: a row without a label, expected labels below 2 (1 rows have none)" in words


def test_data_without_labels_or_captions_are_refused(tmp_path: Path, encoder: Counted) -> None:
    write_shards(tmp_path / "captions", make_rows(4, classes=None))
    write_shards(tmp_path / "labels", make_rows(4, captions=None))
    words = refusal(open_conditions, Choice("class"), ck.open_dataset(tmp_path / "captions"), tmp_path, file="my/data")
    assert words == "my/data: no row has a label, expected a label in every row; choose a data set with labels, or train on captions"
    words = refusal(open_texts, ck.open_dataset(tmp_path / "labels"), encoder, tmp_path / "cache")
    assert "000000000: a row without a caption, expected a caption in every row (4 rows have none); give it one" in words
    assert encoder.asked == []


def test_states_are_those_of_the_rows_captions(source: ck.Dataset, encoder: Counted, tmp_path: Path) -> None:
    found = open_texts(source, encoder, tmp_path / "cache")
    assert (found.classes, len(found)) == (None, ROWS)
    some = torch.tensor([5, 117, 5])
    states = found.at(some).states
    assert states.dtype == torch.float32
    expected = encoder.encoder.encode([source.row(row)["caption"] for row in some.tolist()])[0]
    assert torch.equal(states, expected.half().float())
    assert torch.equal(found.null.states, encoder.encoder.encode([""])[0].half().float())
    assert found.null.mask is None


def test_a_swapped_variant_asks_the_encoder_for_nothing(source: ck.Dataset, encoder: Counted, tmp_path: Path) -> None:
    clean = open_texts(source, encoder, tmp_path / "cache")
    assert len(encoder.asked) == ROWS + 1
    encoder.asked.clear()
    plan = ck.make_plan(SWAP, source.index())
    ck.write_variant(source, plan, tmp_path / "variant")
    variant = ck.open_dataset(tmp_path / "variant")
    corrupted = open_texts(variant, encoder, tmp_path / "cache")
    assert encoder.asked == []
    by_key = [dict(zip(keys_of(data), found.at(EVERY).states, strict=True)) for data, found in ((source, clean), (variant, corrupted))]
    edits = {edit["key"]: edit["new"] for edit in plan.edits.to_pylist()}
    captions = {row["key"]: row["caption"] for row in source.rows()}
    holder = {caption: key for key, caption in captions.items()}
    assert len(edits) == 36
    for key, caption in captions.items():
        assert torch.equal(by_key[1][key], by_key[0][holder[edits.get(key, caption)]])
    # Shuffled captions as well: every caption of every row is another's.
    open_texts(source.with_recipe(ck.Recipe(seed=1, chain=[ck.Swap(ratio="1")])), encoder, tmp_path / "cache")
    assert encoder.asked == []


def test_a_dropped_caption_is_the_null_condition(source: ck.Dataset, encoder: Counted, tmp_path: Path) -> None:
    found = open_texts(source.with_recipe(NO_CAPTIONS), encoder, tmp_path / "cache")
    assert int(null_rows(found.at(EVERY), found.null).sum()) == 36


@pytest.mark.parametrize("recipe", [FLIP, NO_LABELS])
def test_conditions_are_corrupted_anew_in_each_epoch(source: ck.Dataset, tmp_path: Path, recipe: ck.Recipe) -> None:
    stage = 'kind = "flip"' if recipe is FLIP else 'kind = "drop"\nmode = "label"'
    (tmp_path / "recipe.toml").write_text(f'seed = 0\n[[chain]]\n{stage}\nratio = "0.3"\n')
    found = open_conditions(Choice("class", each_epoch=str(tmp_path / "recipe.toml")), source, tmp_path)
    for epoch in (0, 1, 2, 0):
        expected = source.with_recipe(recipe, epoch=epoch).index().numbers("label")
        assert found.at(EVERY, epoch).ids.tolist() == expected.tolist()
    assert not torch.equal(found.at(EVERY, 0).ids, found.at(EVERY, 1).ids)


def test_captions_are_corrupted_anew_in_each_epoch(source: ck.Dataset, encoder: Counted, tmp_path: Path) -> None:
    asked = list[int]()

    def redraw(epoch: int) -> ck.Dataset:
        asked.append(epoch)
        return source.with_recipe(SWAP, epoch=epoch)

    found = open_texts(source, encoder, tmp_path / "cache", redraw=redraw)
    encoder.asked.clear()
    assert asked == []
    for epoch in (0, 1, 0, 1, 2, 1):  # two epochs are held, for batches across their border
        captions = redraw_captions(source, epoch)
        assert torch.equal(found.at(EVERY, epoch).states, encoder.encoder.encode(captions)[0].half().float())
    assert asked == [0, 1, 2]
    found.at(EVERY, 0)
    assert asked == [0, 1, 2, 0]
    assert encoder.asked == []


def redraw_captions(source: ck.Dataset, epoch: int) -> list[str]:
    captions: list[str] = source.with_recipe(SWAP, epoch=epoch).index().column("caption").to_pylist()
    return captions


def test_a_batch_across_epochs_has_each_row_in_its_own(source: ck.Dataset, encoder: Counted, tmp_path: Path) -> None:
    rows, epochs = torch.arange(40), torch.tensor([1, 0] * 10 + [1] * 20)
    redraw = {kind: lambda epoch, recipe=recipe: source.with_recipe(recipe, epoch=epoch) for kind, recipe in (("c", FLIP), ("t", SWAP))}
    classes = open_classes(source, redraw=redraw["c"])
    texts = open_texts(source, encoder, tmp_path / "cache", redraw=redraw["t"])
    for provider, part in ((classes, "ids"), (texts, "states")):
        found = getattr(conditions_of(provider, rows, epochs), part)
        for place, (row, epoch) in enumerate(zip(rows.tolist(), epochs.tolist(), strict=True)):
            assert torch.equal(found[place], getattr(provider.at(torch.tensor([row]), epoch), part)[0])
        assert torch.equal(getattr(conditions_of(provider, rows, epochs * 0 + 1), part), getattr(provider.at(rows, 1), part))


def test_words_and_null_are_the_same_without_data(source: ck.Dataset, tiny: Path, tmp_path: Path) -> None:
    for output in ("pooled", "tokens"):
        choice = Choice("text", TextEncoder(name=str(tiny), output=output, max_tokens=16))
        found = open_conditions(choice, source, tmp_path / "cache")
        words = encode_words(choice, [source.row(row)["caption"] for row in (3, 9)])
        rows = found.at(torch.tensor([3, 9]))
        assert torch.equal(words.states, rows.states)
        assert (words.mask is None) if rows.mask is None else torch.equal(words.mask, rows.mask)
        null = null_conditions(choice, None)
        assert (null.classes, len(null)) == (None, 0)
        assert torch.equal(null.null.states, found.null.states)
        assert torch.equal(null.at(EVERY[:0], 0).states, found.at(EVERY[:0], 0).states)
    assert encode_words(Choice("class"), ["3", "10"]).ids.tolist() == [3, 10]
    null = null_conditions(Choice("class"), 10)
    assert (null.classes, len(null), null.null.ids.tolist(), len(null.at(EVERY[:0], 0))) == (10, 0, [10], 0)


IMAGES = torch.arange(4000)
CLASSES = Condition(ids=IMAGES % 10)
NULL = Condition(ids=torch.tensor([10]))


def test_dropout_is_one_draw_an_image_whatever_the_batch() -> None:
    condition, mask = drop_conditions(CLASSES, NULL, IMAGES, 0.1, 0)
    assert abs(int(mask.sum()) - 400) < 5 * math.sqrt(4000 * 0.1 * 0.9)
    assert torch.equal(condition.ids, torch.where(mask, 10, CLASSES.ids))
    for size in (1, 7, 64):
        for first in (0, 990, 3900):
            rows = torch.arange(first, min(first + size, 4000))
            part, some = drop_conditions(CLASSES.take(rows), NULL, IMAGES[rows], 0.1, 0)
            assert torch.equal(some, mask[rows])
            assert torch.equal(part.ids, condition.ids[rows])
    assert not torch.equal(drop_conditions(CLASSES, NULL, IMAGES, 0.1, 1)[1], mask)
    greater = drop_conditions(CLASSES, NULL, IMAGES, 0.3, 0)[1]
    assert not (mask & ~greater).any()  # one draw: a row dropped at a rate is dropped at every greater one


def test_dropout_draws_once_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[tuple[str, int, tuple[int, ...]]]()

    def count(_: int, purpose: str, images: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        calls.append((purpose, len(images), shape))
        return torch.zeros(len(images), *shape)

    monkeypatch.setattr(module, "draw_uniform", count)
    embed_conditions(Spy(), CLASSES, NULL, [Cep()], images=IMAGES, rows=IMAGES, rate=0.1, seed=0)
    assert calls == [("dropout", 4000, ())]


def test_rates_of_none_and_all_are_exact() -> None:
    assert not drop_conditions(CLASSES, NULL, IMAGES, 0.0, 0)[1].any()
    condition, mask = drop_conditions(CLASSES, NULL, IMAGES, 1.0, 0)
    assert mask.all()
    assert (condition.ids == 10).all()


@pytest.mark.parametrize("tokens", [False, True])
def test_a_dropped_text_is_the_empty_captions_states_and_mask(tokens: bool) -> None:
    shape = (5, 8) if tokens else (8,)
    states, none = torch.ones(64, *shape), torch.zeros(1, *shape)
    masks = (torch.ones(64, 5, dtype=torch.bool), torch.arange(5).unsqueeze(0) < 2) if tokens else (None, None)
    condition, mask = drop_conditions(Condition(None, states, masks[0]), Condition(None, none, masks[1]), IMAGES[:64], 0.5, 0)
    assert 0 < int(mask.sum()) < 64
    assert (condition.states.flatten(1).sum(1) == torch.where(mask, 0.0, states[0].numel())).all()
    if condition.mask is not None:
        assert condition.mask.sum(1).tolist() == torch.where(mask, 2, 5).tolist()
    assert torch.equal(null_rows(condition, Condition(None, none, masks[1])), mask)
    with pytest.raises(ValueError, match="conditions of two kinds"):
        drop_conditions(condition, NULL, IMAGES[:64], 0.5, 0)


class Spy(torch.nn.Module):
    """A denoiser with a class table that writes down what it is given, and when."""

    classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[tuple[str, Tensor]]()
        self.table = torch.nn.Parameter(torch.eye(11, 16))

    def embed(self, condition: Condition) -> Tensor:
        assert condition.ids is not None
        self.seen.append(("embed", condition.ids))
        return self.table[condition.ids]

    def forward(self, states: Tensor) -> Tensor:
        self.seen.append(("network", states))
        return states


def test_the_order_is_corruption_dropout_embed_perturbation_network(source: ck.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spy, rows = Spy(), EVERY
    real = module.perturb

    def watched(configs: Sequence[Any], states: Tensor, **how: Any) -> Any:
        spy.seen.append(("perturbation", states))
        return real(configs, states, **how)

    monkeypatch.setattr(module, "perturb", watched)
    condition = open_classes(source.with_recipe(FLIP)).at(rows)
    assert not torch.equal(condition.ids, open_classes(source).at(rows).ids)  # corrupted in the data, before all else
    null = Condition(ids=torch.tensor([10]))
    found = embed_conditions(spy, condition, null, [Cep()], images=rows, rows=rows, rate=0.3, seed=0)
    spy(found.states)
    assert [name for name, _ in spy.seen] == ["embed", "perturbation", "network"]
    embedded, perturbed, network = (value for _, value in spy.seen)
    dropped = drop_conditions(condition, null, rows, 0.3, 0)
    assert torch.equal(found.dropped, dropped[1])
    assert 0 < int(found.dropped.sum()) < ROWS
    assert torch.equal(embedded, dropped[0].ids)
    assert torch.equal(perturbed, spy.table[embedded])  # embedded and not yet perturbed
    assert ((network - perturbed) != 0).any(1).all()
    assert found.measures["delta_norm"] > 0


def test_null_rows_of_the_data_and_of_dropout_stay_clean_alike(source: ck.Dataset) -> None:
    spy = Spy()
    provider = open_classes(source.with_recipe(NO_LABELS))
    configs = [Cep(null=False), LabelSmoothing()]
    found = embed_conditions(spy, provider.at(EVERY), provider.null, configs, images=EVERY, rows=EVERY, rate=0.2, seed=0)
    clean = (found.states == spy.table[10]).all(1)
    assert torch.equal(clean, found.dropped | (provider.at(EVERY).ids == 10))
    assert int(clean.sum()) > int(found.dropped.sum()) > 0


def test_smoothing_is_given_the_classes_without_the_null_row() -> None:
    spy, ids = Spy(), torch.arange(10)
    how: dict[str, Any] = {"images": ids, "rows": ids, "rate": 0.0, "seed": 0}
    found = embed_conditions(spy, Condition(ids=ids), NULL, [LabelSmoothing(rate=0.5)], **how)
    torch.testing.assert_close(found.states, 0.5 * spy.table[:10] + 0.5 * spy.table[:10].mean(0))


def test_outside_training_nothing_is_dropped_or_perturbed() -> None:
    spy, configs = Spy(), [Cep(), EmbeddingDropout(), LabelSmoothing()]
    found = embed_conditions(spy, CLASSES, NULL, configs, images=IMAGES, rows=IMAGES, rate=0.5, seed=0, training=False)
    assert torch.equal(found.states, spy.table[CLASSES.ids])
    assert not found.dropped.any()
    assert found.measures == {}


def test_a_clean_and_a_corrupted_run_drop_and_perturb_alike(source: ck.Dataset) -> None:
    spy, configs = Spy(), [Cep()]
    pair = []
    for data in (source, source.with_recipe(FLIP)):
        provider = open_classes(data)
        how: dict[str, Any] = {"images": EVERY + 1000, "rows": EVERY, "rate": 0.3, "seed": 0}
        found = embed_conditions(spy, provider.at(EVERY), provider.null, configs, **how)
        pair.append((provider.at(EVERY).ids, found))
    (clean_ids, clean), (other_ids, other) = pair
    assert torch.equal(clean.dropped, other.dropped)
    same = (clean_ids == other_ids) | clean.dropped
    assert torch.equal((clean.states == other.states).all(1), same)
    assert 0 < int(same.sum()) < ROWS


@pytest.mark.usefixtures("minilm")
def test_captions_of_openmoji_meet_their_states(openmoji: Path, tmp_path: Path) -> None:
    """The real thing: names of drawn emoji, and MiniLM."""
    dataset = ck.open_dataset(openmoji)
    encoder = Counted(load_encoder(TextEncoder(max_tokens=32)))
    some = dataset.index().column("caption")[::16]
    table = embed_captions(encoder, some, tmp_path)
    assert len(encoder.asked) == len({*some.to_pylist(), ""})
    states = table.states[table.places].float()
    torch.testing.assert_close(states.norm(dim=1), torch.ones(len(states)), atol=1e-3, rtol=0)
    assert len(torch.unique(table.states, dim=0)) == len(table.states)  # no two captions are one to the encoder
    encoder.asked.clear()
    again = embed_captions(encoder, some[::-1], tmp_path)
    assert torch.equal(again.states[again.places].flip(0), table.states[table.places])
    assert encoder.asked == []
