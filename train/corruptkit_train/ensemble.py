"""Many small models trained at once: settings x seeds in one batched pass, each of them the run that `train_run` would make alone.

OUT/NAME/ is the folder of each member's run: run.json with the run's own digest, log.jsonl, checkpoints. Members of one seed share
images, times, noises and masks of dropout, so that what differs between them is their data and their perturbation alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import corruptkit as ck
from corruptkit_train.averages import Average
from corruptkit_train.checkpoint import drop_checkpoints, find_checkpoints, save_checkpoint
from corruptkit_train.conditions import Condition, Conditions, conditions_of, open_conditions
from corruptkit_train.config import RunConfig
from corruptkit_train.images import Feed, Share, read_batches
from corruptkit_train.loop import autocast, catch_signals, crossed, explain_memory, rate_part, refuse_nan, trim_log, write_log
from corruptkit_train.meter import Meter, count_flops, find_peak
from corruptkit_train.run import (
    Opened,
    compare_folder,
    find_cache,
    flatten_fields,
    hold_folder,
    open_data,
    open_feed,
    refuse_nesting,
    write_record,
)
from corruptkit_train.sampling import find_device
from corruptkit_train.stacks import Cast, Reading, Span, Stack, StackedAdamW, clip_members, refuse_unbatched, stack_losses
from corruptkit_train.trained import make_denoiser

# Fields in which members may differ.
_FREE = re.compile(r"(seed|perturbation(\..*)?|condition\.(dropout|each_epoch)|optimiser\.rate)$")
# What an ensemble does not do, and what it must be.
_PLAIN = {
    "micro_batch": None,
    "compile": False,
    "checkpointing": False,
    "channels_last": False,
    "sharding": "ddp",
    "sample": 0,
    "trackers": (),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Member:
    """A run of an ensemble, and the data or the variant that it is trained on."""

    config: RunConfig
    data: str | Path
    source: str | Path | None = None


@dataclass(frozen=True)
class _Player:
    """A member with what was opened for it."""

    name: str
    config: RunConfig
    opened: Opened
    conditions: Conditions
    out: Path
    record: dict[str, Any]


def train_ensemble(
    members: Mapping[str, Member], out: Path, *, images: int | None = None, latents: str | Path | None = None, feed: Feed | None = None
) -> dict[str, dict[str, Any]]:
    """Train, or go on training, all members at once; gives the record of each run by its name.

    Members may differ in seed, data (variants of one source), perturbation, dropout, each_epoch and rate. The ensemble resumes from the
    newest checkpoint that all of them have. `latents` is the cache that all read; `feed` is read in the place of the images, in their
    shape, and nothing of it is recorded. Raises what `train_run` raises, CatalogError for members that do not go together, and
    IntegrityError that names the member whose loss is no number.
    """
    refuse_unlike({name: member.config for name, member in members.items()})
    leader = next(iter(members.values()))
    cache = None if feed is not None else find_cache(leader.config, leader.data, latents)
    for member in members.values():
        refuse_nesting(Path(member.data), out)
    with hold_folder(out, first=True), ExitStack() as held:
        for name in members:
            held.enter_context(hold_folder(out / name, first=True))
        players = _open_players(members, out, images)
        first = players[0]
        found = open_feed(first.config, first.opened, cache) if feed is None else feed
        target = images or first.config.images
        training = _Training(players, target)
        for player in players:
            write_record(player.config, player.record, player.out)
        training.run(found)
    return {player.name: player.record | {"images": target, "path": str(player.out)} for player in players}


def refuse_unlike(configs: Mapping[str, RunConfig]) -> None:
    """Refuse members that one batched pass cannot serve: the first field that differs, or that an ensemble has no use for, is named."""
    if not configs:
        raise ck.CatalogError(ck.Problem("members", "found none", "one or more", "name the runs to train"))
    (leader, config), *_ = configs.items()
    for name in configs:
        if not _NAME.fullmatch(name):
            raise ck.CatalogError(
                ck.Problem("members", f"found '{name:.60}'", "a folder's name of letters, digits, '.', '_', '-'", "mend it")
            )
    for field, plain in _PLAIN.items():
        if getattr(config.machine, field) != plain:
            found = f"machine.{field} is {getattr(config.machine, field)!r}"
            raise ck.CatalogError(ck.Problem(f"member '{leader}'", found, f"{plain!r} in an ensemble", "leave it out, or train it alone"))
    mine = flatten_fields(config.model_dump(mode="json"))
    for name, other in configs.items():
        theirs = flatten_fields(other.model_dump(mode="json"))
        for field in sorted(mine.keys() | theirs.keys()):
            if not _FREE.match(field) and mine.get(field) != theirs.get(field):
                found, expected = f"{field} is {theirs.get(field)!r:.60}", f"{mine.get(field)!r:.60} as in '{leader}'"
                raise ck.CatalogError(ck.Problem(f"member '{name}'", found, expected, "train it in another ensemble"))


def _open_players(members: Mapping[str, Member], out: Path, images: int | None) -> list[_Player]:
    """Members in the order of a stack, those of one rate and one perturbation beside each other; each data set is opened once."""
    opened: dict[tuple[Any, ...], tuple[Opened, Conditions]] = {}
    players = []
    for name, member in members.items():
        config = member.config
        key = (str(member.data), str(member.source), config.condition.each_epoch)
        if key not in opened:
            found = open_data(config, member.data, member.source)
            opened[key] = (
                found,
                open_conditions(config.condition, found.dataset, out / ".captions", file=str(member.data), encoder=found.encoder),
            )
        data, conditions = opened[key]
        record = compare_folder(config, data.record, out / name, images or config.images)
        players.append(_Player(name, config, data, conditions, out / name, record))
    _refuse_other_images(players)
    order = {key: place for place, key in reversed(list(enumerate(map(_group_key, players))))}
    return sorted(players, key=lambda player: (player.config.optimiser.rate, order[_group_key(player)]))


def _group_key(player: _Player) -> tuple[Any, ...]:
    config = player.config
    return config.optimiser.rate, config.perturbation


def _refuse_other_images(players: Sequence[_Player]) -> None:
    """Images are read once for all, so that members must be variants of one source, told as many classes."""
    first = players[0]
    for player in players:
        for what, find in (("the source's fingerprint", _source_print), ("the number of rows", _rows), ("the number of classes", _classes)):
            mine, theirs = find(first.opened), find(player.opened)
            if mine != theirs:
                found, expected = f"{what} is {theirs!s:.16}", f"{mine!s:.16} as in '{first.name}'"
                raise ck.CatalogError(ck.Problem(f"member '{player.name}'", found, expected, "train on variants of one source"))


def _source_print(opened: Opened) -> str:
    manifest = opened.dataset.manifest
    return str(opened.record["fingerprint"] if manifest is None else manifest.identity["source"]["fingerprint"])


def _rows(opened: Opened) -> int:
    return len(opened.dataset)


def _classes(opened: Opened) -> int | None:
    classes: int | None = opened.record["classes"]
    return classes


def _describe_cast(players: Sequence[_Player], null: Condition, device: torch.device) -> Cast:
    """What a pass needs to know of the members, in the order of the stack."""
    seeds = list(dict.fromkeys(player.config.seed for player in players))
    spans: list[Span] = []
    for place, player in enumerate(players):
        before = spans.pop() if spans and spans[-1].perturbations == player.config.perturbation else None
        spans.append(Span(player.config.perturbation, place if before is None else before.first, place + 1))
    return Cast(
        players[0].config.objective,
        null,
        torch.tensor(seeds, device=device),
        torch.tensor([seeds.index(player.config.seed) for player in players], device=device),
        torch.tensor([player.config.condition.dropout for player in players], device=device),
        tuple(spans),
    )


def _join_conditions(parts: Sequence[Condition]) -> Condition:
    """One after another."""
    columns = zip(*(part.parts() for part in parts), strict=True)
    return Condition(*(None if column[0] is None else torch.cat(column) for column in columns))


class _Sums:
    """Means of what the steps since the last report say, (M,) each."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        self._sums = {name: value.detach().float() + self._sums.get(name, 0.0) for name, value in values.items()}
        self.count += 1

    def means(self) -> dict[str, list[float]]:
        return {name: (total / self.count).tolist() for name, total in self._sums.items()}


class _Training:
    """An ensemble in the course of its training: networks, optimiser and average stacked, and the folders that they are written to."""

    def __init__(self, players: Sequence[_Player], images: int) -> None:
        self.players, self.images, self.device = players, images, find_device()
        self.config = players[0].config
        torch.set_float32_matmul_precision("high" if self.config.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.config.precision != "fp32"
        self.null = players[0].conditions.null.to(self.device)
        networks: list[Any] = [
            make_denoiser(player.config, player.conditions, player.opened.record["shape"]).to(self.device) for player in players
        ]
        self.flops = count_flops(networks[0], self.null, self.device)
        shape = networks[0].sample_shape
        with explain_memory(ck.Problem("members", f"out of memory with {len(players)} of them", do="train fewer at once")):
            self.stack = Stack(networks)
            refuse_unbatched(self.stack, self.null, shape)
            self.stack.denoiser.train()
            self.optimiser = StackedAdamW(self.stack.weights, [player.config.optimiser for player in players])
            self.average = Average(self.stack.denoiser, self.config.average.decay, warmup=self.config.average.warmup)
        self.cast, self.sums = _describe_cast(players, self.null, self.device), _Sums()

    def run(self, feed: Feed) -> None:
        """Train until all images have been seen; SIGTERM and Ctrl-C write checkpoints first."""
        config, batch = self.config, self.config.optimiser.batch
        seen = self.resume()
        turns = range(seen // batch, self.images // batch)
        how: dict[str, Any] = {"workers": config.machine.workers, "pin": self.device.type == "cuda"}
        seeds = dict.fromkeys(player.config.seed for player in self.players)
        readers = {seed: read_batches(feed, Share(batch, batch), turns, seed=seed, **how) for seed in seeds}
        peak, peak_from = find_peak(self.device, config.precision)
        meter = Meter(self.flops * len(self.players), peak)
        problem = ck.Problem("members", f"out of memory with {len(self.players)} of them", do="train fewer at once")
        bar = tqdm(total=self.images, initial=seen, unit="img", disable=None, smoothing=0.05)
        with catch_signals() as stopped, explain_memory(problem), bar:
            while seen < self.images:
                self.step(feed, readers, meter, seen)
                seen += batch
                meter.add(batch)
                bar.update(batch)
                leaving = stopped()
                ended = seen >= self.images or leaving
                if ended or seen // batch % config.machine.report == 0:
                    self.report(seen, {**meter.report(), "decay": self.average.next_decay(), "peak": peak_from})
                if ended or crossed(seen, batch, config.machine.save):
                    self.save(seen)
                if leaving and seen < self.images:
                    raise KeyboardInterrupt

    def step(self, feed: Feed, readers: Mapping[int, Iterator[Any]], meter: Meter, seen: int) -> None:
        """Read once for each seed, one pass forward and back for all members, then clip, update and average each by itself."""
        started = time.perf_counter()
        got = {seed: next(reader) for seed, reader in readers.items()}
        meter.wait(time.perf_counter() - started)
        told: dict[tuple[int, int], Condition] = {}
        for player in self.players:  # members of one seed and one variant are told the same
            key, part = (player.config.seed, id(player.conditions)), got[player.config.seed]
            if key not in told:
                told[key] = conditions_of(player.conditions, part.rows, part.numbers // len(feed))
        given = _join_conditions([told[player.config.seed, id(player.conditions)] for player in self.players])
        numbers = next(iter(got.values())).numbers.to(self.device)
        clean = torch.stack([feed.prepare(part.images.to(self.device, non_blocking=True), numbers, seed) for seed, part in got.items()])
        rows = torch.stack([part.rows for part in got.values()])
        reading = Reading(clean, numbers, rows.to(self.device), given.to(self.device))
        with autocast(self.config, self.device):
            losses, measures = stack_losses(self.stack, self.cast, reading)
            # A sum over members of means over the batch: each member's gradient is that of its own mean.
            loss = losses.sum() / losses.shape[1]
        loss.backward()  # type: ignore[no-untyped-call]
        norms = clip_members(self.stack.weights, self.config.optimiser.clip)
        self.optimiser.update(rate_part(self.config.optimiser, seen))
        self.average.update(self.stack.denoiser)
        self.sums.add({"loss": losses.mean(1), **measures, "gradient_norm": norms})

    def report(self, seen: int, common: Mapping[str, Any]) -> None:
        """A line in each member's log. Raises IntegrityError that names a member whose loss is no number."""
        means, self.sums = self.sums.means(), _Sums()
        lines = [{name: values[place] for name, values in means.items()} for place in range(len(self.players))]
        for player, line in zip(self.players, lines, strict=True):
            refuse_nan(line, player.out, seen)
        part = rate_part(self.config.optimiser, seen - self.config.optimiser.batch)
        for player, line in zip(self.players, lines, strict=True):
            write_log(player.out / "log.jsonl", {"images": seen, **line, **common, "rate": player.config.optimiser.rate * part})

    def save(self, seen: int) -> None:
        """A checkpoint of every member, and only then are old ones removed: whenever it ends, all have one number in common."""
        if self.sums.count:
            means = self.sums.means()
            for place, player in enumerate(self.players):
                refuse_nan({name: values[place] for name, values in means.items()}, player.out, seen)
        average = self.average.state()
        for place, player in enumerate(self.players):
            parts = {
                "weights": self.stack.state(place),
                "average": {name: value[place] for name, value in average.items()},
                "optimiser": self.optimiser.tensors(place),
            }
            save_checkpoint(player.out, parts, {**player.record, "images": seen, "updates": self.average.updates})
        for player in self.players:
            drop_checkpoints(player.out, self.config.machine.keep, self.config.machine.keep_every, upto=seen)

    def resume(self) -> int:
        """Load the newest checkpoint that all members have, if there is one; gives the images seen."""
        found = [{checkpoint.images: checkpoint for checkpoint in find_checkpoints(player.out)} for player in self.players]
        seen = max(set.intersection(*map(set, found)), default=0)
        updates = 0
        whole = {name: torch.empty_like(weight) for name, weight in self.average.weights.items()} if seen else {}
        for place, checkpoints in enumerate(found if seen else []):
            checkpoint = checkpoints[seen]
            self.stack.load(place, checkpoint.tensors("weights"))
            self.optimiser.load(place, checkpoint.tensors("optimiser"))
            for name, value in checkpoint.tensors("average").items():
                whole[name][place] = value
            updates = int(checkpoint.state["updates"])
        if seen:
            self.average.load(whole, updates)
        for player in self.players:
            trim_log(player.out / "log.jsonl", seen)
        return seen
