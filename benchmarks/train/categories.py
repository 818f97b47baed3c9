"""Do samples of a text model show what their captions say? Two runs of one preset: real captions, and all of them swapped.

    .venv/bin/python benchmarks/train/categories.py RUN SHUFFLED_RUN --source data/openmoji [--each N] [--scale S] [--record]

Up to fifty captions of each of OpenMoji's ten groups are sampled; a small network that was trained on the real images says which group a
sample shows. Chance is one in ten. The judge's own accuracy on images that it has not seen stands beside it. Two grids, one a run,
and the real images of the same captions are saved for the eye.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import corruptkit as ck
from corruptkit_train.commands import find_run
from corruptkit_train.conditions import open_words
from corruptkit_train.draws import draw_uniform
from corruptkit_train.grids import tile_images
from corruptkit_train.images import ImageConfig, Order, Pictures
from corruptkit_train.samples import Request, sample_numbers
from corruptkit_train.trained import open_model

sys.path.insert(0, str(Path(__file__).parents[1]))
from results import publish

_EPOCHS, _BATCH, _HELD = 30, 64, 5


def train_judge(images: Tensor, labels: Tensor, classes: int) -> tuple[nn.Module, float]:
    """A small convolutional network, and its accuracy on every fifth image, which it has not seen (mean over the groups)."""
    torch.manual_seed(0)
    width = 32
    layers: list[nn.Module] = []
    for before, after in ((images.shape[1], width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(classes))
    held = torch.arange(len(images)) % _HELD == 0
    x, y = images[~held].float() / 127.5 - 1, labels[~held]
    weight = 1 / y.bincount(minlength=classes).clamp(min=1)  # half of all emoji are people
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    order = Order(0, len(x))
    for step in range(_EPOCHS * len(x) // _BATCH):
        rows = order.rows_at(torch.arange(step * _BATCH, (step + 1) * _BATCH))
        # Shifted by up to two pixels, so that a sample a little off its place is judged by what it shows.
        down, right = (draw_uniform(0, "crop", torch.tensor([2 * step, 2 * step + 1])) * 5).long().tolist()
        shifted = x[rows].roll((down - 2, right - 2), (2, 3))
        loss = nn.functional.cross_entropy(net(shifted), y[rows], weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    return net, mean_accuracy(net, images[held], labels[held], classes)


@torch.no_grad()
def mean_accuracy(net: nn.Module, images: Tensor, labels: Tensor, classes: int) -> float:
    """The mean over the groups of the share that is recognised."""
    right = torch.cat([net(part.float() / 127.5 - 1).argmax(1) for part in images.split(500)]) == labels
    return float(torch.stack([right[labels == group].float().mean() for group in range(classes)]).mean())


def sample_captions(home: Path, captions: list[str], scale: float) -> Tensor:
    """(N, C, H, W) uint8: one image a caption, from the averaged weights of the newest checkpoint."""
    config, checkpoint = find_run(home, None)
    tell = open_words(config.condition)
    request = Request(len(captions), (scale,), 1, "text", tuple(captions), config.sampler, "average")
    return sample_numbers(open_model(config, checkpoint, tell=tell), request, tell, torch.arange(len(captions)), 64)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs=2, metavar="RUN", type=Path)
    parser.add_argument("--source", required=True)
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--grids", type=Path, default=Path())
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    dataset = ck.open_dataset(args.source)
    config, _ = find_run(args.runs[0], None)
    size = ImageConfig(size=config.data.size, channels=config.data.channels)
    images, _ = Pictures(dataset, size, keep=True).load(torch.arange(len(dataset)), torch.arange(len(dataset)), 0)
    labels = torch.from_numpy(dataset.index().numbers("label").copy())
    classes = int(labels.max()) + 1
    judge, known = train_judge(images, labels, classes)
    order = Order(0, len(dataset)).rows_at(torch.arange(len(dataset)))
    rows = torch.cat([order[labels[order] == group][: args.each] for group in range(classes)])
    captions = dataset.index().column("caption").take(rows.numpy()).to_pylist()
    names = ("captions as the recipe left them", "every caption swapped")
    seen = mean_accuracy(judge, images[rows], labels[rows], classes)
    lines = [
        f"{len(rows)} captions, up to {args.each} of each of {classes} groups, at guidance {args.scale:g}; chance is {1 / classes:.1%}.",
        f"The judge recognises {known:.1%} of real images that it has not seen, {seen:.1%} of those that the captions belong to.",
        "",
        "| run | variant_id | images trained on | samples whose group is recognised | times chance |",
        "|---|---|---|---|---|",
    ]
    asked = labels[rows]
    shown = torch.cat([(asked == group).nonzero().flatten()[:10] for group in range(classes)])
    tile_images(images[rows][shown], 10).save(args.grids / "real.png")
    for home, name in zip(args.runs, names, strict=True):
        samples = sample_captions(home, captions, args.scale)
        tile_images(samples[shown], 10).save(args.grids / f"{home.name}.png")
        share = mean_accuracy(judge, samples, asked, classes)
        state = find_run(home, None)[1].state
        lines.append(f"| {name} | {state['data']['variant_id']} | {state['images']:,} | {share:.1%} | {share * classes:.1f} |")
    command = f"`benchmarks/train/categories.py {args.runs[0]} {args.runs[1]} --source {args.source} --scale {args.scale:g}`"
    publish("Groups of sampled emoji", command, lines, record=args.record)


if __name__ == "__main__":
    main()
