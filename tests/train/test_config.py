"""A run's configuration: read, changed, hashed, and refused by the nearest word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import corruptkit as ck
from corruptkit_train.config import RunConfig, change_sampler, load_config, parse_config, presets

RUN = """
images = 256
[data]
size = 16
[condition]
kind = "class"
[model]
kind = "dit"
depth = 2
width = 32
heads = 2
patch = 4
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN)
    return path


def test_defaults_are_written_out_and_read_again(file: Path, tmp_path: Path) -> None:
    config = load_config(file)
    stored = tmp_path / "run.json"
    stored.write_text(json.dumps({"config": config.model_dump(mode="json"), "run": config.digest()}))
    assert load_config(stored) == config
    assert config.model_dump()["objective"]["schedule"]["beta_end"] == 0.02


@pytest.mark.parametrize("name", sorted(presets()))
def test_presets_are_runs(name: str) -> None:
    assert isinstance(load_config(name), RunConfig)


def test_the_presets_of_the_laptop_are_there() -> None:
    assert {"laptop-openmoji-text", "laptop-openmoji-class", "laptop-openmoji-latents-text", "laptop-fashion-class"} <= set(presets())


def test_changes_are_toml_or_text(file: Path) -> None:
    changes = [
        "optimiser.rate=3e-4",
        "condition.each_epoch=flip.toml",
        'perturbation=[{kind="cep", gamma=0.5}]',
        "perturbation.0.gamma=5",
        "machine.trackers=['tensorboard']",
        "objective.kind=eps",
        "objective.schedule.name=scaled_linear",
    ]
    config = load_config(file, changes)
    assert config.optimiser.rate == 3e-4
    assert config.condition.each_epoch == "flip.toml"
    assert config.perturbation[0].gamma == 5  # type: ignore[union-attr]
    assert config.machine.trackers == ("tensorboard",)
    assert config.objective.schedule.name == "scaled_linear"  # type: ignore[union-attr]


def test_a_table_that_an_earlier_run_had_none_of_can_be_set(file: Path, tmp_path: Path) -> None:
    """run.json states null for it."""
    earlier = tmp_path / "run.json"
    earlier.write_text(json.dumps({"config": load_config(file).model_dump(mode="json")}))
    found = load_config(earlier, ["latents.autoencoder=folder"]).latents
    assert found is not None
    assert found.autoencoder == "folder"


def test_the_machine_and_the_length_are_no_part_of_a_run(file: Path) -> None:
    config = load_config(file)
    for change in ("images=512", "machine.workers=3", "machine.micro_batch=32", "machine.report=1"):
        assert load_config(file, [change]).digest() == config.digest()
    for change in ("seed=1", "data.flip=true", "precision='bf16'", "condition.dropout=0.2", "average.warmup=false"):
        assert load_config(file, [change]).digest() != config.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimiser.rat=1", "optimiser.rat: unknown field 'rat'; did you mean 'rate'?"),
        ("model.kind='dot'", "model: unknown kind 'dot'; did you mean 'dit'?"),
        ("model.dept=3", "model.dit.dept: unknown field 'dept'; did you mean 'depth'?"),
        ("data.size=-1", "data.size: found -1, expected greater than or equal to 4; mend the value"),
        ("images=100", "found images = 100, expected a multiple of optimiser.batch = 128"),
        ("perturbation=[{kind='cep', gama=1}]", "perturbation.0.cep.gama: unknown field 'gama'; did you mean 'gamma'?"),
        ("perturbation=[{kind='cep'}, {kind='cep'}]", "perturbation: found 'cep' twice, expected each kind once; leave one out"),
        ("machine.micro_batch=7", "found machine.micro_batch = 7, expected a divisor of optimiser.batch = 128"),
        ("objective.kind='epz'", "objective: unknown kind 'epz'; did you mean 'eps'?"),
        ("model.learned_variance=true", "found learned_variance in one of model and objective, expected it in both or in none"),
        ("sampler.interval=[0.5, 0.2]", "found interval = [0.5, 0.2], expected 0 <= low <= high <= 1"),
        ("sampler.steps=501", "found steps = 501 with dpmpp, expected at most 500; it needs 50 or fewer"),
        ("sampler={name='ddim', steps=30}", "found steps = 30 with ddim, expected a divisor of 1000, such as 50 or 250"),
        ("sampler.name='euler'", "found sampler.name = 'euler' with objective.kind = 'eps', expected dpmpp or ddim"),
        ("condition.kind='word'", "condition.kind: found 'word'; valid are: class, text"),
        ("seed", "--set: found 'seed', expected a.b=value"),
        ("data.size.x=3", "--set: found 'data.size.x=3', but 'size' is no table"),
        ("perturbation.0.gamma=1", "perturbation: found {'0': {'gamma': 1}}, expected a valid list"),
        ("objective.min_snr=5", "objective: a required field is missing; state kind"),
    ],
)
def test_a_mistake_is_named_with_what_to_do(file: Path, change: str, message: str) -> None:
    with pytest.raises(ck.CatalogError) as caught:
        load_config(file, [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_smoothing_is_of_classes_alone(file: Path) -> None:
    smoothed = "perturbation=[{kind='smoothing'}]"
    assert load_config(file, ["condition.kind='class'", smoothed]).perturbation
    with pytest.raises(ck.CatalogError) as caught:
        load_config(file, ["condition.kind='text'", smoothed])
    words = "found smoothing of captions, expected classes, whose table has a mean; leave it out or train on labels"
    assert str(caught.value).endswith(words)


def test_all_mistakes_are_told_together(file: Path) -> None:
    with pytest.raises(ck.CatalogError) as caught:
        load_config(file, ["optimiser.rat=1", "data.siz=3", "seed=-1"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("content", ["images = ", "\x00", "[[model]]\n[model]", '{"config": 1}'])
def test_a_file_that_is_no_run(tmp_path: Path, content: str) -> None:
    for name in ("run.toml", "run.json"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ck.CatalogError):
            load_config(tmp_path / name)
    with pytest.raises(ck.CatalogError, match="name a run file or a preset"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ck.CatalogError, match="did you mean 'laptop-openmoji-text'"):
        load_config("laptop-openmoji-txt")


def test_a_sampler_is_changed_alone(file: Path) -> None:
    config = load_config(file)
    assert change_sampler(config, ["steps=7", "interval=[0.1, 0.9]"]).steps == 7
    with pytest.raises(ck.CatalogError, match=r"sampler\.step: unknown field 'step'; did you mean 'steps'"):
        change_sampler(config, ["step=7"])


def test_plain_values_make_a_run(file: Path) -> None:
    config = load_config(file)
    assert parse_config(config.model_dump(mode="json"), "here") == config
