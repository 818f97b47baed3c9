"""Map-style data sets: labels without images where the object tells them, items of every shape, torch's loaders."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

import corruptkit as ck

FLIP = ck.Recipe(seed=0, chain=[ck.Flip(ratio="0.5")])
ALL = ck.Recipe(seed=0, chain=[ck.Flip(ratio="1")])
SWAP = ck.Recipe(seed=0, chain=[ck.Swap(ratio="1")])
CAPTIONS = [f"thing {n}" for n in range(12)]
Named = namedtuple("Named", ["image", "label"])  # noqa: PYI024 - what others' data sets give


class Folder:
    """As torchvision's ImageFolder tells of itself; `opened` counts the images that are read."""

    def __init__(self, root: Path, target_transform: Any = None) -> None:
        self.root, self.target_transform, self.opened = str(root), target_transform, 0
        self.classes = sorted(path.name for path in root.iterdir())
        self.samples = [(str(path), n) for n, name in enumerate(self.classes) for path in sorted((root / name).iterdir())]
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[bytes, Any]:
        path, label = self.samples[number]
        self.opened += 1
        return Path(path).read_bytes(), label if self.target_transform is None else self.target_transform(label)


class Held:
    """As CIFAR, MNIST and SVHN tell of themselves: labels in one attribute, and perhaps the classes."""

    def __init__(self, **told: Any) -> None:
        vars(self).update(told)
        self.opened = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> tuple[str, int]:
        self.opened += 1
        return object(), range(3)[number % 3]  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        place = tmp_path / "train" / f"n{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.v1.png").write_bytes(b"image %d" % number)
    return tmp_path / "train"


def test_folder_of_images_gives_what_its_files_give(folder: Path) -> None:
    items = Folder(folder)
    plan, files = ck.plan_corruption(items, FLIP), ck.make_plan(FLIP, ck.open_dataset(folder).index())
    assert (plan.variant_id, plan.composed) == (files.variant_id, files.composed)
    assert items.opened == 1
    variant = {row["key"]: row["label"] for row in ck.open_dataset(folder).with_recipe(FLIP).rows()}
    made = ck.corrupt(items, FLIP)
    assert {str(Path(path).relative_to(folder).with_suffix("")): made[n][1] for n, (path, _) in enumerate(items.samples)} == variant
    assert [made[n][0] for n in range(12)] == [Path(path).read_bytes() for path, _ in items.samples]


def test_labels_are_transformed_as_before(folder: Path) -> None:
    plain, hot = Folder(folder), Folder(folder, target_transform=lambda label: [float(label == n) for n in range(3)])
    made, told = ck.corrupt(hot, FLIP), ck.corrupt(plain, FLIP)
    assert [item[1].index(1.0) for item in map(made.__getitem__, range(12))] == [told[n][1] for n in range(12)]


@pytest.mark.parametrize(
    "told",
    [
        {"targets": [n % 3 for n in range(12)], "classes": list("abcd")},
        {"targets": torch.arange(12) % 3, "classes": list("abcd")},
        {"labels": np.arange(12) % 3, "classes": list("abcd")},
    ],
    ids=["list", "tensor", "array"],
)
def test_labels_that_are_told_cost_no_image(told: Any) -> None:
    items = Held(**told)
    plan = ck.plan_corruption(items, FLIP)
    assert (items.opened, plan.source["classes"], plan.source["key_rule"]) == (1, 4, "ordinal")
    assert plan.composed == ck.plan_corruption(Held(), FLIP, classes=4).composed


def test_part_of_a_data_set_keeps_its_keys(folder: Path) -> None:
    items = Folder(folder)
    part = Subset(items, [7, 3, 5])
    plan = ck.plan_corruption(part, ALL)
    assert set(plan.composed["key"].to_pylist()) <= set(ck.plan_corruption(items, ALL).composed["key"].to_pylist())
    assert items.opened == 2
    assert all(ck.corrupt(part, ALL)[n][1] != part[n][1] for n in range(3))


@pytest.mark.parametrize(
    ("wrap", "label"),
    [
        (lambda n: (b"", n % 3), 1),
        (lambda n: [b"", n % 3], 1),
        (lambda n: Named(b"", n % 3), 1),
        (lambda n: (n % 3, b""), 0),
        (lambda n: (b"", np.int64(n % 3)), 1),
        (lambda n: (b"", torch.tensor(n % 3)), 1),
        (lambda n: {"image": b"", "label": n % 3}, "label"),
        (lambda n: {"jpg": b"", "cls": torch.tensor(n % 3)}, "cls"),
        (lambda n: (b"", 5, n % 3), "2"),
    ],
)
def test_items_keep_their_type(wrap: Any, label: Any) -> None:
    items = [wrap(n) for n in range(12)]
    made = ck.corrupt(items, ALL, label_column=label) if label == "2" else ck.corrupt(items, ALL)
    place = int(label) if label == "2" else label
    for n in range(12):
        assert type(made[n]) is type(items[n])
        assert type(made[n][place]) is type(items[n][place])
        assert made[n][place] != items[n][place]
        assert len(made[n]) == len(items[n])


def test_captions_are_found_beside_labels() -> None:
    items = [(b"", text, n % 3) for n, text in enumerate(CAPTIONS)]
    made = ck.corrupt(items, ck.Recipe(seed=0, chain=[ck.Flip(ratio="1"), ck.Swap(ratio="1")]))
    assert all(made[n][1] != items[n][1] and made[n][2] != items[n][2] for n in range(12))
    assert ck.corrupt([(b"", "x", text) for text in CAPTIONS], SWAP, caption_column="2")[0][1:] != ("x", CAPTIONS[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_takes_the_result(workers: int, folder: Path) -> None:
    items = ck.corrupt([{"label": torch.tensor(n % 3), "caption": text} for n, text in enumerate(CAPTIONS)], FLIP)
    loader = DataLoader(items, batch_size=5, num_workers=workers, multiprocessing_context="spawn" if workers else None)
    found = [(label, text) for batch in loader for label, text in zip(batch["label"].tolist(), batch["caption"], strict=True)]
    assert found == [(int(items[n]["label"]), CAPTIONS[n]) for n in range(12)]
    shuffled = DataLoader(ck.corrupt(Folder(folder), FLIP), batch_size=4, shuffle=True, collate_fn=list)
    assert sum(len(batch) for batch in shuffled) == 12


def test_numbers_count_from_the_end_too_and_end() -> None:
    made = ck.corrupt([(b"", n % 3) for n in range(12)], ALL)
    assert made[-1] == made[11]
    assert made.__getitems__([3, -2]) == [made[3], made[10]]
    with pytest.raises(IndexError):
        made[12]


def test_items_that_change_are_refused() -> None:
    items = [(b"", n % 3) for n in range(12)]
    made = ck.corrupt(items, ALL)
    items[4] = (b"", 2)
    with pytest.raises(ck.DatasetError, match="item 4: found the label 2, expected '1'"):
        made[4]


@pytest.mark.parametrize(
    ("items", "how", "said"),
    [
        ([(b"", 0), (b"", 0.5)], {}, "'label' is of type float"),
        ([(b"", 0), (b"",)], {}, "item 1: an item of another shape than item 0"),
        ([(b"", 0), {"label": 1}], {}, "item 1: an item of another shape than item 0"),
        ([(b"", 0)], {"label_column": "2"}, "no place '2' in tuples of 2"),
        ([(b"", 0)], {"label_column": "label"}, "no place 'label' in tuples of 2"),
        ([(b"", 2**70)], {}, "fits no column"),
        ([{"label": 0, "caption": "\ud800"}], {}, "fits no column"),
        ([{"label": True}], {}, "'label' is of type bool"),
        ([(b"", -1)], {}, "the label -1"),
        ([(b"", b"")], {}, "no row has a label"),
        ([{"label": 0}], {"key": "key"}, "no column 'key'"),
    ],
)
def test_items_that_are_wrong_are_refused(items: Any, how: Any, said: str) -> None:
    with pytest.raises(ck.CorruptkitError) as caught:
        ck.corrupt(items, ALL, **how)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [np.uint8, lambda n: torch.tensor(n, dtype=torch.uint8)])
def test_label_that_its_type_does_not_hold_is_refused(label: Any) -> None:
    made = ck.corrupt([(b"", label(n % 3)) for n in range(12)], ck.Recipe(seed=0, chain=[ck.Drop(ratio="1", mode="label")]), classes=256)
    with pytest.raises(
        ck.DatasetError, match=r"the class 256, in an item whose label is of type .*uint8, expected labels that hold every class"
    ):
        made[0]


class Pictures:
    """As torchvision's CIFAR10 has it: arrays in `data`, a list of `targets`, `classes` and `class_to_idx`."""

    base_folder, train = "cifar-10-batches-py", True

    def __init__(self, root: Path, transform: Any = None, target_transform: Any = None) -> None:
        self.root, self.transform, self.target_transform = str(root), transform, target_transform
        self.transforms = (transform, target_transform)
        self.data = np.arange(12 * 2 * 2 * 3, dtype=np.uint8).reshape(12, 2, 2, 3)
        self.targets = [n % 3 for n in range(12)]
        self.classes = ["plane", "car", "bird"]
        self.class_to_idx = {name: n for n, name in enumerate(self.classes)}

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = self.data[index], self.targets[index]
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)

    def __len__(self) -> int:
        return len(self.data)


class Files:
    """As torchvision's ImageFolder has it: `samples` and `imgs`, `targets`, `classes`, `class_to_idx`, a `loader`."""

    def __init__(self, root: Path, transform: Any = None, target_transform: Any = None) -> None:
        self.root, self.transform, self.target_transform = str(root), transform, target_transform
        self.loader, self.extensions = (lambda path: np.frombuffer(Path(path).read_bytes(), np.uint8)), (".png",)
        self.classes = sorted(path.name for path in root.iterdir())
        self.class_to_idx = {name: n for n, name in enumerate(self.classes)}
        self.samples = [(str(path), n) for name, n in self.class_to_idx.items() for path in sorted((root / name).iterdir())]
        self.targets = [target for _, target in self.samples]
        self.imgs = self.samples

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image = self.loader(path)
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)

    def __len__(self) -> int:
        return len(self.samples)


@pytest.mark.parametrize("kind", [Pictures, Files])
@pytest.mark.parametrize("transform", [None, lambda label: torch.nn.functional.one_hot(torch.tensor(label), 3)], ids=["bare", "one-hot"])
def test_data_sets_of_torchvisions_shape(kind: Any, transform: Any, folder: Path) -> None:
    clean = kind(folder, transform=lambda image: image.astype(np.float32) / 255, target_transform=transform)
    made, plan = ck.corrupt(clean, FLIP), ck.plan_corruption(clean, FLIP)
    assert (plan.counts().changed, plan.source["classes"], len(made)) == (6, 3, 12)
    labels = [int(torch.as_tensor(made[n][1]).argmax() if transform else made[n][1]) for n in range(12)]
    assert sum(a != b for a, b in zip(labels, clean.targets, strict=True)) == 6
    assert all(np.array_equal(made[n][0], clean[n][0]) for n in range(12))
    assert type(made[0][1]) is type(clean[0][1])
    for name in ("targets", "samples", "imgs"):
        assert not hasattr(made, name), "it would tell the clean labels"
    if kind is Files:
        assert plan.variant_id == ck.make_plan(FLIP, ck.open_dataset(folder).index()).variant_id
    again = ck.corrupt(Subset(clean, range(12)), FLIP)
    assert [int(torch.as_tensor(again[n][1]).argmax() if transform else again[n][1]) for n in range(12)] == labels
