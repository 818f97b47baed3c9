"""Sample sets: the same images however they are made, files that others read, and one line for what is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

import corruptkit as ck
from corruptkit_train import samples
from corruptkit_train.checkpoint import find_checkpoints
from corruptkit_train.cli import main
from corruptkit_train.config import digest_table, load_config
from corruptkit_train.run import train_run
from corruptkit_train.trained import open_model
from tests.train.small import small_run, write_pictures

torch.set_num_threads(1)
PROMPTS = ["picture 3", "", "  ", "picture 5", "7"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four classes with two checkpoints. Not to be changed."""
    home = tmp_path_factory.mktemp("classes")
    changes = {"objective": {"kind": "v"}, "optimiser": {"rate": 5e-3}, "machine": {"save": 320}}
    train_run(small_run(images=640, **changes), write_pictures(home / "src"), home / "run")
    return home / "run"


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A run of captions. Not to be changed."""
    home = tmp_path_factory.mktemp("texts")
    condition = {"kind": "text", "encoder": {"name": str(tiny), "output": "pooled", "max_tokens": 6}}
    train_run(small_run(images=32, condition=condition), write_pictures(home / "src"), home / "run")
    return home / "run"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the processes that tests start, and of commands that would take all cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SHARD", 4)


def sample(run: Path, out: Path, *words: str) -> dict[str, Any]:
    assert main(["sample", str(run), "--out", str(out), *words]) == 0
    manifest: dict[str, Any] = json.loads((out / "samples.json").read_text())
    return manifest


def read_images(folder: Path) -> np.ndarray:
    """(N, H, W, C) of all tars, in order."""
    found = []
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            found += [np.asarray(Image.open(tar.extractfile(name))) for name in tar.getnames() if name.endswith(".png")]  # type: ignore[arg-type]
    return np.stack(found)


def read_tree(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def differ(one: np.ndarray, two: np.ndarray) -> int:
    """The largest difference of two sets in grey levels."""
    assert one.shape == two.shape
    return int(np.abs(one.astype(int) - two.astype(int)).max())


def test_an_image_is_the_same_for_any_batch_count_and_list_of_scales(run: Path, tmp_path: Path) -> None:
    sample(run, tmp_path / "all", "--count", "12", "--scale", "1,1.5,4")
    for words in (["--batch", "1"], ["--batch", "5"], ["--count", "7"], ["--scale", "4,1.5"]):
        out = tmp_path / "".join(words)
        sample(run, out, "--count", "12", "--scale", "1.5", *words)
        found = read_images(out / "s1.5")
        # Sums of other sizes are rounded otherwise: at most the last bit of a pixel.
        assert differ(found, read_images(tmp_path / "all" / "s1.5")[: len(found)]) <= 1
    assert differ(read_images(tmp_path / "all" / "s1"), read_images(tmp_path / "all" / "s4")) > 1


def test_the_manifest_names_what_it_is_from(run: Path, tmp_path: Path) -> None:
    manifest = sample(run, tmp_path / "out", "--count", "3", "--scale", "1.5", "--seed", "5", "--set", "steps=3", "--labels", "2,0")
    checkpoint = find_checkpoints(run)[-1]
    assert checkpoint.images == 640
    assert manifest["run"] == json.loads((run / "run.json").read_text())["run"]
    assert (manifest["variant_id"], manifest["images_seen"], manifest["seed"], manifest["scales"]) == ("", 640, 5, [1.5])
    assert (manifest["weights"], manifest["weights_sha256"]) == ("average", checkpoint.state["sha256"]["average"])
    assert manifest["sampler"] == {"name": "dpmpp", "steps": 3, "interval": [0, 1], "precision": "fp32"}
    assert [file["path"] for file in manifest["files"]] == ["s1.5/000000000.tar"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"s1.5", "samples.json"}
    raw = sample(run, tmp_path / "raw", "--count", "3", "--scale", "1.5", "--weights", "raw", "--checkpoint", "320")
    assert (raw["images_seen"], raw["weights"]) == (320, "raw")
    assert raw["weights_sha256"] == find_checkpoints(run)[0].state["sha256"]["weights"]


def test_tars_are_data_sets(run: Path, text_run: Path, tmp_path: Path, small_shards: None) -> None:  # noqa: ARG001 - a fixture
    sample(run, tmp_path / "classes", "--count", "10", "--scale", "1.5", "--labels", "3,1,2")
    dataset = ck.open_dataset(tmp_path / "classes" / "s1.5")
    assert [row["label"] for row in dataset.rows()] == [3, 1, 2] * 3 + [3]
    assert len(dataset.shards) == 3
    (tmp_path / "prompts").write_text("\n".join(PROMPTS))
    sample(text_run, tmp_path / "texts", "--count", "4", "--scale", "2", "--prompts", str(tmp_path / "prompts"))
    dataset = ck.open_dataset(tmp_path / "texts" / "s2")
    assert [row["caption"] for row in dataset.rows()] == ["picture 3", "picture 5", "7", "picture 3"]
    assert all(Image.open(io.BytesIO(row["image"])).size == (8, 8) for row in dataset.rows())
    urls = str(tmp_path / "classes" / "s1.5" / "{000000000..000000008..4}.tar")
    files = [str(path) for path in sorted((tmp_path / "classes" / "s1.5").glob("*.tar"))]
    assert len(files) == 3, urls
    theirs = list(webdataset.WebDataset(files, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in theirs] == [f"{number:09d}" for number in range(10)]
    assert theirs[5]["json"] == {"number": 5, "scale": 1.5}
    assert (theirs[5]["cls"], theirs[5]["png"].size) == (2, (8, 8))


def test_arrays_are_what_evaluators_read(run: Path, text_run: Path, tmp_path: Path, small_shards: None) -> None:  # noqa: ARG001 - a fixture
    words = ["--count", "10", "--scale", "1,2"]
    sample(run, tmp_path / "tar", *words)
    manifest = sample(run, tmp_path / "npz", *words, "--format", "npz")
    assert [file["path"] for file in manifest["files"]] == ["s1/samples.npz", "s2/samples.npz"]
    for scale in ("s1", "s2"):
        assert [path.name for path in (tmp_path / "npz" / scale).iterdir()] == ["samples.npz"]
        with np.load(tmp_path / "npz" / scale / "samples.npz") as arrays:
            assert set(arrays) == {"arr_0", "arr_1"}
            assert (arrays["arr_0"].dtype, arrays["arr_0"].shape) == (np.uint8, (10, 8, 8, 3))
            assert np.array_equal(arrays["arr_0"], read_images(tmp_path / "tar" / scale))
            assert arrays["arr_1"].tolist() == [number % 4 for number in range(10)]
    # A caption of digits is no class.
    (tmp_path / "prompts").write_text("7\npicture 3")
    sample(text_run, tmp_path / "texts", "--count", "3", "--format", "npz", "--scale", "1", "--prompts", str(tmp_path / "prompts"))
    with np.load(tmp_path / "texts" / "s1" / "samples.npz") as arrays:
        assert set(arrays) == {"arr_0"}


@pytest.mark.parametrize("kind", ["tar", "npz"])
def test_what_was_killed_keeps_its_whole_shards(run: Path, tmp_path: Path, kind: str, small_shards: None) -> None:  # noqa: ARG001 - a fixture
    """kill -9 at some moment: what is there has its final bytes, and the same command makes the rest."""
    words = [str(run), "--count", "38", "--scale", "1,2", "--format", kind, "--set", "steps=50"]
    out, whole, suffix = tmp_path / "out", tmp_path / "whole", {"tar": "tar", "npz": "npy"}[kind]
    code = "import sys, torch; from corruptkit_train import samples, cli; samples.SHARD = 4; torch.set_num_threads(1); sys.exit(cli.main())"
    process = subprocess.Popen([sys.executable, "-c", code, "sample", *words, "--out", str(out)])
    while not (out / "s1" / f"000000008.{suffix}").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "samples.json").exists()
    (out / "s1" / f"000000036.{suffix}.1.tmp").write_bytes(b"half")  # what a kill may leave
    (out / "request.json.1.tmp").write_bytes(b"half")
    kept = out / "s2" / f"000000004.{suffix}"
    with kept.open("rb") as opened:  # held open, so that a new file cannot get its inode
        sample(run, out, *words[1:])
        assert kind == "npz" or os.fstat(opened.fileno()).st_ino == kept.stat().st_ino
    sample(run, whole, *words[1:])
    assert read_tree(out) == read_tree(whole)


def test_parts_that_are_there_are_not_made_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SHARD", 2)
    made: list[list[int]] = []
    make = samples.sample_numbers

    def note(*words: Any) -> Any:
        made.append(words[3].tolist())
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(*words)

    monkeypatch.setattr(samples, "sample_numbers", note)
    words = ["sample", str(run), "--count", "7", "--format", "npz", "--out", str(tmp_path / "out")]
    assert main(words) == 130
    assert main(words) == 0
    assert made == [[0, 1], [2, 3], [4, 5], [4, 5], [6]]
    assert main(words) == 0
    assert len(made) == 5


def test_a_finished_set_is_checked_and_left_as_it_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--count", "3", "--scale", "1.5"]
    first = sample(run, tmp_path / "out", *words)
    file = tmp_path / "out" / "s1.5" / "000000000.tar"
    stamp = file.stat().st_mtime_ns
    assert sample(run, tmp_path / "out", *words) == first
    assert file.stat().st_mtime_ns == stamp
    capsys.readouterr()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert main(["sample", str(run), *words, "--out", str(tmp_path / "out")]) == 2
    assert f"{file}: its SHA-256 is another, expected what samples.json says; remove the folder" in capsys.readouterr().err
    file.unlink()
    assert main(["sample", str(run), *words, "--out", str(tmp_path / "out")]) == 2
    assert f"{file}: it is not there" in capsys.readouterr().err


def test_two_scales_that_print_alike_have_folders_of_their_own(run: Path, tmp_path: Path) -> None:
    manifest = sample(run, tmp_path / "out", "--count", "1", "--scale", "1.2345671,1.2345672,2.0,-0,0")
    folders = ["s1.2345671", "s1.2345672", "s2", "s0"]
    assert [file["path"].partition("/")[0] for file in manifest["files"]] == folders


def test_the_result_is_json_where_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(run), "--count", "2", "--json", "--out", str(tmp_path / "out")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == json.loads((tmp_path / "out" / "samples.json").read_text())
    assert told["samples"]["scales"] == [2.0]  # the run's


def spoil(run: Path, home: Path, how: str) -> Path:
    """A copy of a run with something wrong."""
    copy = home / "run"
    shutil.copytree(run, copy)
    last = copy / "checkpoints" / f"{640:012d}"
    if how == "no run":
        (copy / "run.json").unlink()
    elif how == "no checkpoint":
        shutil.rmtree(copy / "checkpoints")
    elif how == "cut":
        os.truncate(last / "average.safetensors", 100)
    elif how == "gone":
        (last / "average.safetensors").unlink()
    elif how == "no state":
        (last / "state.json").write_text("[]")
    elif how == "another run":
        state = json.loads((last / "state.json").read_text())
        (last / "state.json").write_text(json.dumps(state | {"run": "f" * 64}))
    elif how in ("an edited run", "another network"):
        stored = json.loads((copy / "run.json").read_text())
        stored["config"]["model"]["width"] = 64
        (copy / "run.json").write_text(json.dumps(stored))
        if how == "another network":  # and the checkpoint says that it is of that run
            state = json.loads((last / "state.json").read_text())
            (last / "state.json").write_text(json.dumps(state | {"run": digest_table(stored["config"])}))
    return copy


@pytest.mark.parametrize(
    ("how", "words", "message"),
    [
        ("no run", [], "run.json: it is not there, expected the folder of a run; name the --out of corruptkit-train run"),
        ("no checkpoint", [], "no checkpoint, expected one of: none; train it first, or name another"),
        ("", ["--checkpoint", "48"], "no checkpoint at 48 images, expected one of: 320, 640; train it first, or name another"),
        ("cut", [], "average.safetensors: its SHA-256 is not that of state.json; remove the checkpoint's folder"),
        ("gone", [], "average.safetensors: cannot be read: [Errno 2] No such file or directory"),
        ("no state", [], "state.json: cannot be read: 'list' object is not a mapping"),
        ("another run", [], "state.json: a checkpoint of run ffffffffffffffff, expected of run"),
        ("an edited run", [], "state.json: a checkpoint of run"),
        ("another network", [], "average.safetensors: weights of another network: "),
        ("", ["--labels", "99"], "--labels: found '99', expected classes from 0 to 3 with commas; mend the list"),
        ("", ["--labels", "1,,2"], "--labels: found '', expected classes from 0 to 3"),
        ("", ["--labels", ""], "--labels: found '', expected classes from 0 to 3"),
        ("", ["--labels", "9" * 5000], f"--labels: found '{'9' * 40}', expected classes from 0 to 3"),
        ("", ["--labels", "01"], "--labels: found '01', expected classes from 0 to 3"),
        ("", ["--scale", "x"], "--scale: found 'x', expected numbers of 0 or more with commas, such as 1,1.5,2; mend it"),
        ("", ["--scale", ""], "--scale: found '', expected numbers"),
        ("", ["--scale", "nan"], "--scale: found 'nan', expected numbers"),
        ("", ["--scale=-1"], "--scale: found '-1', expected numbers"),
        ("", ["--prompts", "p.txt"], "--prompts: captions for a model of classes, expected --labels; name classes"),
        ("", ["--count", "0"], "--count: found 0, expected 1 or more; mend it"),
        ("", ["--batch", "0"], "--batch: found 0, expected 1 or more; mend it"),
        ("", ["--set", "step=3"], "--set, sampler.step: unknown field 'step'; did you mean 'steps'?"),
        ("", ["--set", "name=euler"], "found sampler.name = 'euler' with objective.kind = 'v', expected dpmpp or ddim"),
        ("", ["--set", "precision=int8"], "--set, sampler.precision: found 'int8'"),
    ],
)
def test_what_is_wrong_is_one_line(  # the folder of samples is not begun
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, words: list[str], message: str
) -> None:
    home = spoil(run, tmp_path, how) if how else run
    assert main(["sample", str(home), "--count", "4", "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, [], "--prompts: no captions for a model of text, expected a file of captions; state --prompts"),
        (None, ["--labels", "1"], "--labels: classes for a model of text, expected --prompts; name a file of captions"),
        (b"", ["--prompts", "FILE"], "FILE: no captions, expected a caption a line; fill the file"),
        (b" \n\t\n", ["--prompts", "FILE"], "FILE: no captions, expected a caption a line; fill the file"),
        (b"\xff\xfe", ["--prompts", "FILE"], "FILE: cannot be read: 'utf-8' codec can't decode byte 0xff"),
        (None, ["--prompts", "FILE"], "FILE: cannot be read: No such file or directory, expected text in UTF-8, a caption a line"),
        (None, ["--prompts", ""], "cannot be read: "),
    ],
)
def test_captions_that_are_none_are_one_line(
    text_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: list[str], message: str
) -> None:
    file = tmp_path / "captions"
    if content is not None:
        file.write_bytes(content)
    words = [str(file) if word == "FILE" else word for word in words]
    assert main(["sample", str(text_run), "--count", "4", "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err
    assert message.replace("FILE", str(file)) in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    sample(run, out, "--count", "2", "--scale", "1.5")
    for words, message in [
        (["--seed", "1"], "other samples: seed is 0, expected 1; choose another --out"),
        (["--scale", "1.5,2"], "other samples: scales is [1.5], expected [1.5, 2.0]; choose another --out"),
        (["--checkpoint", "320"], "other samples: images_seen is 640, expected 320; choose another --out"),
        (["--format", "npz"], "other samples: format is 'tar', expected 'npz'; choose another --out"),
        (["--set", "steps=9"], "other samples: sampler is "),
    ]:
        capsys.readouterr()
        assert main(["sample", str(run), "--count", "2", "--scale", "1.5", "--out", str(out), *words]) == 2
        assert message in capsys.readouterr().err
    (out / "samples.json").write_text("{")
    assert main(["sample", str(run), "--count", "2", "--out", str(out)]) == 2
    assert "samples.json: no JSON: " in capsys.readouterr().err
    (tmp_path / "notes.tmp").write_text("somebody's")
    assert main(["sample", str(run), "--count", "2", "--out", str(tmp_path)]) == 2
    assert "something else lies there, expected an empty folder; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "notes.tmp").exists()


def test_the_null_condition_is_class_k_or_the_empty_caption(run: Path, text_run: Path, tiny: Path) -> None:
    null = open_model(load_config(run / "run.json"), find_checkpoints(run)[-1]).null
    assert null.ids is not None
    assert null.ids.tolist() == [4]
    from corruptkit_train.encoders import TextEncoder, load_encoder

    null = open_model(load_config(text_run / "run.json"), find_checkpoints(text_run)[-1]).null
    states, _ = load_encoder(TextEncoder(name=str(tiny), output="pooled", max_tokens=6)).encode([""])
    assert null.states is not None
    assert torch.equal(null.states, states.half().float())


def test_processes_share_the_shards(run: Path, tmp_path: Path, small_shards: None) -> None:  # noqa: ARG001 - a fixture
    words = ["sample", str(run), "--count", "18", "--scale", "1,2", "--format", "npz"]
    alone = sample(run, tmp_path / "alone", *words[2:])
    script = tmp_path / "rank.py"
    script.write_text("import sys\nfrom corruptkit_train import samples, cli\nsamples.SHARD = 4\nsys.exit(cli.main())\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    out = tmp_path / "out"
    found = subprocess.run([*launch, *words, "--json", "--out", str(out)], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout)["samples"] == alone  # told once
    assert read_tree(out) == read_tree(tmp_path / "alone")


@pytest.mark.parametrize("kind", ["tar", "npz"])
def test_each_process_makes_its_own_shards_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setattr(samples, "SHARD", 4)
    words = ["sample", str(run), "--count", "18", "--scale", "1", "--format", kind, "--out", str(tmp_path / "out")]
    sample(run, tmp_path / "out", *words[2:6], "--count", "18", "--format", kind)
    files = read_tree(tmp_path / "out")
    request = {name: value for name, value in json.loads(files["samples.json"]).items() if name != "files"}
    shutil.rmtree(tmp_path / "out")
    # As if the first process had claimed the folder and made nothing yet.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "request.json").write_text(json.dumps(request))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == ""
    suffix = "tar" if kind == "tar" else "npy"
    assert {path.name for path in (tmp_path / "out" / "s1").iterdir()} == {f"{start:09d}.{suffix}" for start in (4, 12)}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(words) == 0
    assert read_tree(tmp_path / "out") == files
