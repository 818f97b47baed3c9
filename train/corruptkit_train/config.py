"""The configuration of a run: frozen models read from TOML, changed by `--set a.b=c`, resolved, saved and hashed.

What a run *is* stands in every table but `machine`: it gives the identity, and a run is resumed under the same identity only.
`machine` says how it is carried out (workers, micro-batches, what is written when) and may change from start to start.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import corruptkit as ck
from corruptkit.errors import nearest_word, validation_problems
from corruptkit_train.encoders import TextEncoder
from corruptkit_train.images import ImageConfig
from corruptkit_train.latents import LatentConfig
from corruptkit_train.models import Model
from corruptkit_train.objectives import Noise, Objective
from corruptkit_train.perturbation import Perturbations
from corruptkit_train.sampling import SAMPLERS, SamplerConfig

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AnyStated = TypeVar("AnyStated", bound="Stated")
APART = ("machine", "images", "expected")  # of a run's identity
_FAMILIES = ("autoencoder",)  # of presets that are not of `corruptkit-train run`


class Part(BaseModel):
    """A table of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stated(Part):
    """What a file states, with its identity."""

    def identity(self) -> dict[str, Any]:
        """What a run is, apart from how far it goes and how it is carried out."""
        return self.model_dump(mode="json", exclude=set(APART))

    def digest(self) -> str:
        """SHA-256 of the identity as canonical JSON."""
        return digest_table(self.identity())


class ConditionConfig(Part):
    """What the network is told: the class, or the caption in the states of a text encoder."""

    kind: Literal["class", "text"]
    dropout: Share = 0.1  # rows whose condition is the null one, for guidance (the paper does not state its rate; 0.1 is usual)
    encoder: TextEncoder = TextEncoder()  # for text alone
    each_epoch: str = ""  # a recipe file: conditions corrupted anew in every epoch ("random data corruption", paper Table 7)


class OptimiserConfig(Part):
    """AdamW (Loshchilov & Hutter 2019), constant rate after a linear warm-up."""

    rate: Annotated[float, Field(gt=0)] = 1e-4  # of learning
    betas: tuple[Share, Share] = (0.9, 0.999)  # of the means of gradients and of their squares
    decay: Annotated[float, Field(ge=0)] = 0.0  # of weights
    epsilon: Annotated[float, Field(gt=0)] = 1e-8  # beside the root of squares
    clip: Annotated[float, Field(ge=0)] = 1.0  # of the gradient's norm; 0: none
    warmup: Annotated[int, Field(ge=0)] = 0  # images
    batch: Positive = 128  # images of a step, over all processes


class AverageConfig(Part):
    """The moving average that is sampled and saved as the model."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999  # kept at each step
    warmup: bool = True  # min(decay, (1 + n) / (10 + n)) at the n-th step


class MachineConfig(Part):
    """How a run is carried out; it changes no draw, and results by rounding only."""

    micro_batch: Positive | None = None  # images of a forward pass on each process; default: batch / processes
    workers: Annotated[int, Field(ge=0)] = 0  # processes that read and decode, beside each that trains
    hold: Annotated[int, Field(ge=0)] = 1 << 30  # bytes of decoded images (centre crops), or of latents, that may be held in memory
    compile: bool = False  # the network's blocks, by torch.compile, each as one graph of static shapes
    checkpointing: bool = False  # activations are computed again on the way back: less memory, a third more time
    channels_last: bool = False  # memory layout of UNets
    sharding: Literal["ddp", "fsdp"] = "ddp"  # of several processes: the whole network on each, or shards of it
    report: Positive = 50  # steps between two lines of the log
    sample: Annotated[int, Field(ge=0)] = 0  # images between two grids; 0: one at the end
    save: Annotated[int, Field(ge=0)] = 0  # images between two checkpoints; 0: one at the end
    keep: Positive = 2  # newest checkpoints that stay
    keep_every: Annotated[int, Field(ge=0)] = 0  # the first checkpoint at or after each multiple of so many images stays as well
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # what draws the log's curves besides


class ExpectedConfig(Part):
    """What a paper reports of a run, to hold one's own numbers beside; it is compared with nothing."""

    source: Annotated[str, Field(min_length=1)]  # where the numbers stand
    method: str = "clean"  # what was done to the conditions: clean, or a perturbation as [[perturbation]] has it
    scale: Annotated[float, Field(ge=0)]  # of guidance
    samples: Positive = 50_000  # that were measured
    fid: Annotated[float, Field(ge=0)] | None = None  # Fréchet distance of Inception features
    inception: Annotated[float, Field(ge=0)] | None = None  # Inception score
    precision: Share | None = None  # by nearest neighbours
    recall: Share | None = None  # by nearest neighbours


class RunConfig(Stated):
    """A run: everything but the data, which `--data` names."""

    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    images: Positive  # to train on in all; a run may go on to more
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"  # tf32: products on tensor cores; bf16: autocast over fp32 weights
    data: ImageConfig
    latents: LatentConfig | None = None  # of an autoencoder, in place of pixels
    condition: ConditionConfig
    perturbation: Perturbations = ()
    model: Model
    objective: Objective = Noise()
    optimiser: OptimiserConfig = OptimiserConfig()
    average: AverageConfig = AverageConfig()
    sampler: SamplerConfig = SamplerConfig()
    machine: MachineConfig = MachineConfig()
    expected: tuple[ExpectedConfig, ...] = ()  # what a paper reports; no part of the identity

    @model_validator(mode="after")
    def _agree(self) -> RunConfig:
        learned = getattr(self.model, "learned_variance", False)
        if learned != getattr(self.objective, "learned_variance", False):
            raise ValueError("found learned_variance in one of model and objective, expected it in both or in none")
        if (self.objective.kind, self.sampler.name) not in SAMPLERS:
            names = " or ".join(name for kind, name in SAMPLERS if kind == self.objective.kind)
            raise ValueError(f"found sampler.name = '{self.sampler.name}' with objective.kind = '{self.objective.kind}', expected {names}")
        if self.images % self.optimiser.batch:
            raise ValueError(f"found images = {self.images}, expected a multiple of optimiser.batch = {self.optimiser.batch}")
        if self.optimiser.batch % (self.machine.micro_batch or 1):
            found = f"found machine.micro_batch = {self.machine.micro_batch}"
            raise ValueError(f"{found}, expected a divisor of optimiser.batch = {self.optimiser.batch}")
        return self

    @model_validator(mode="after")
    def _fit_latents(self) -> RunConfig:
        if self.latents is not None and self.data.crop == "random":
            raise ValueError('found data.crop = "random" with latents, expected "center": a cache holds one crop of each image')
        if self.latents is not None and self.data.channels != 3:
            raise ValueError(f"found data.channels = {self.data.channels} with latents, expected 3: an autoencoder sees colours")
        return self

    @model_validator(mode="after")
    def _fit_captions(self) -> RunConfig:
        if self.condition.kind == "class":
            return self
        if any(part.kind == "smoothing" for part in self.perturbation):
            raise ValueError("found smoothing of captions, expected classes, whose table has a mean; leave it out or train on labels")
        if self.model.kind == "pixel-unet":
            raise ValueError("found a pixel-unet with captions, expected classes; choose model.kind unet or dit")
        if self.model.kind in ("dit", "mlp") and self.condition.encoder.output == "tokens":
            raise ValueError(
                f"found a {self.model.kind} with the tokens of captions, expected pooled states; pool them or choose model.kind unet"
            )
        return self


def digest_table(config: Mapping[str, Any]) -> str:
    """SHA-256 of a run as it is stored, whatever version wrote it: of all but what is apart from its identity, as canonical JSON."""
    identity = {name: value for name, value in config.items() if name not in APART}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_config(path: str | Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read a run from a TOML file, from the run.json of an earlier run, or a preset by its name; `changes` are `a.b=value`.

    Raises CatalogError with every problem.
    """
    return parse_config(*read_table(str(path), changes, presets()))


def parse_config(table: Mapping[str, Any], file: str) -> RunConfig:
    """A run from plain values."""
    return parse_stated(RunConfig, table, file)


def parse_stated(kind: type[AnyStated], table: Mapping[str, Any], file: str) -> AnyStated:
    """What a file states, from plain values. Raises CatalogError with every problem."""
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise ck.CatalogError(*validation_problems(error, file, _field_words(kind))) from None


def change_sampler(config: RunConfig, changes: Sequence[str]) -> SamplerConfig:
    """A run's sampler with some fields changed: `steps=20`."""
    table = config.model_dump(mode="json")
    for change in changes:
        _change_table(table["sampler"], change)
    return parse_config(table, "--set").sampler


def presets(family: str = "") -> dict[str, Path]:
    """The runs that ship, by name; those of a family have it before a hyphen."""
    here = Path(str(files("corruptkit_train"))) / "_runs"
    folder = here if here.is_dir() else Path(__file__).parents[1] / "runs"
    found = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {name: path for name, path in found.items() if next((word for word in _FAMILIES if name.startswith(f"{word}-")), "") == family}


def read_table(name: str, changes: Sequence[str], known: Mapping[str, Path]) -> tuple[dict[str, Any], str]:
    """The table of a TOML file, of a run.json, or of one of the known presets, with `changes`; and the file that it is from."""
    path = Path(name)
    if not path.exists() and "/" not in name and not name.endswith((".toml", ".json")):
        if name not in known:
            raise ck.CatalogError(ck.Problem(name, "no such preset", do=nearest_word(name, known)))
        path = known[name]
    if path.suffix == ".json":
        table = read_record(path)["config"]
    else:
        with _explain_text(path):
            table = tomllib.loads(path.read_text(encoding="utf-8"))
    for change in changes:
        _change_table(table, change)
    return table, str(path)


def read_record(file: Path) -> dict[str, Any]:
    """What stands in the run.json of a run: its `config`, and what it was trained on. Raises CatalogError."""
    with _explain_text(file):
        record = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ck.CatalogError(ck.Problem(str(file), "no table 'config'", "the run.json of a run, or a run in TOML", "mend the file"))
    return record


@contextmanager
def _explain_text(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ck.CatalogError(ck.Problem(str(path), f"cannot be read: {error.strerror}", do="name a run file or a preset")) from None
    except (ValueError, RecursionError) as error:
        raise ck.CatalogError(ck.Problem(str(path), f"not a run in TOML, nor a run.json: {error}", do="mend the file")) from None


def _change_table(table: dict[str, Any], change: str) -> None:
    """Put one `a.b=value` into a table; the value is TOML, else text. Tables of a list go by number: perturbation.0.gamma=5."""
    place, equals, text = change.partition("=")
    names = place.strip().split(".")
    if not equals or not all(names):
        raise ck.CatalogError(ck.Problem("--set", f"found '{change}'", "a.b=value, such as optimiser.rate=0.0003"))
    spot: Any = table
    for name in names[:-1]:
        spot = _step_into(spot, name, change)
    if isinstance(spot, list) and not (names[-1].isdigit() and int(names[-1]) < len(spot)):
        found = f"found '{change}', but '{names[-1]}' is none of its {len(spot)} items"
        raise ck.CatalogError(ck.Problem("--set", found, "the number of one, counted from 0"))
    spot[int(names[-1]) if isinstance(spot, list) else names[-1]] = _read_value(text)


def _read_value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:
        return text.strip()
    return found["value"] if len(found) == 1 else text.strip()  # a line break in it would begin another field


def _step_into(spot: Any, name: str, change: str) -> Any:
    if isinstance(spot, list) and name.isdigit() and int(name) < len(spot):
        return spot[int(name)]
    if isinstance(spot, dict) and spot.get(name) is None:  # absent, or stated by none: a run.json has null for it
        spot[name] = {}
    found = spot[name] if isinstance(spot, dict) else None
    if not isinstance(found, dict | list):
        raise ck.CatalogError(ck.Problem("--set", f"found '{change}', but '{name}' is no table", "a.b=value for a field b of a table a"))
    return found


def _field_words(model: type[BaseModel]) -> Mapping[str, Iterable[str]]:
    """The valid fields of each table, by its name ("" is the top one), of unions by kind."""
    words: dict[str, Iterable[str]] = {"": model.model_fields.keys()}
    for name, field in model.model_fields.items():
        for part in _part_models(field.annotation):
            kind = part.model_fields.get("kind")
            words |= {key: value for key, value in _field_words(part).items() if key}
            words[name if kind is None or kind.default is None or len(_part_models(field.annotation)) == 1 else str(kind.default)] = (
                part.model_fields.keys()
            )
    return words


def _part_models(annotation: Any) -> list[type[BaseModel]]:
    """Every model that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _part_models(part)]
