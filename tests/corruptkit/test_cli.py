"""The command line as people and programs meet it: help, exit status, one JSON object, one line an error, and nothing raw on a terminal."""

from __future__ import annotations

import argparse
import errno
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from corruptkit.cli import build_parser
from corruptkit.commands import COMMANDS
from corruptkit.errors import ConflictError, DatasetError, Problem
from corruptkit.manifest import checksum_line
from corruptkit.terminal import Outcome
from tests.corruptkit.saying import Run
from tests.corruptkit.shards import Row, make_rows, write_shards, write_tar

CORRUPTKIT = Path(sys.executable).with_name("corruptkit")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with sources: `src` has everything, the others lack something."""
    monkeypatch.chdir(tmp_path)
    for name in ("CORRUPTKIT_DATA", "CORRUPTKIT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    write_shards(tmp_path / "src", make_rows(20))
    write_shards(tmp_path / "no-labels", make_rows(6, classes=None))
    write_shards(tmp_path / "no-captions", make_rows(6, captions=None))
    write_shards(tmp_path / "same", [Row(f"{n}", n % 3 if n < 2 else None, "all the same") for n in range(6)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished" / ".corruptkit" / "partial").mkdir(parents=True)
    return tmp_path


def run_process(*words: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(CORRUPTKIT), *map(str, words)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, cwd=cwd, check=False)


# Help


def parsers() -> dict[str, argparse.ArgumentParser]:
    (commands_action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands_action.choices)


def test_every_command_has_a_parser_and_the_other_way_round() -> None:
    assert set(parsers()) == set(COMMANDS)
    assert set(COMMANDS) == {"make", "plan", "verify", "restore", "diff", "show", "index", "list", "fetch"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_every_word(run: Run, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        run(command, "--help")
    assert caught.value.code == 0
    for action in parsers()[command]._actions:
        assert action.help, f"{action.option_strings or action.metavar or action.dest} of {command} has no help"
        assert action.metavar or action.choices or action.nargs == 0


def test_help_names_every_command_and_examples_that_parse(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    shown = capsys.readouterr().out
    assert all(f"\n    {command} " in shown for command in COMMANDS)
    examples = [line.split()[1:] for line in shown.splitlines() if line.startswith("  corruptkit ")]
    assert len(examples) >= 3
    for words in examples:
        assert build_parser().parse_args(words).command == words[0]


def test_no_command_is_a_question_for_help(run: Run) -> None:
    said = run()
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("usage: corruptkit ")


def test_version_is_that_of_the_distribution(run: Run) -> None:
    assert run("--version") == (0, "corruptkit 0.1.0\n", "")


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "corruptkit", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "corruptkit 0.1.0\n", "")
    usage = subprocess.run([sys.executable, "-m", "corruptkit", "show", "--help"], capture_output=True, text=True, check=True).stdout
    assert usage.startswith("usage: corruptkit show ")


def test_installed_command_hands_on_its_status(tmp_path: Path) -> None:
    assert run_process("--version").stdout == b"corruptkit 0.1.0\n"
    assert run_process("show", "nowhere", cwd=tmp_path).returncode == 2
    assert run_process("list", "kinds", cwd=tmp_path).returncode == 0


# Errors: status 2, one line each

SWAP = ("make", "--source", "src", "--swap")
FLIP = ("make", "--source", "src", "--flip")
LONG = "n" * 300
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown command": (("mak", "--source", "src"), "did you mean 'make'?"),
    "unknown command unlike any": (("zzz",), "restore"),
    "unknown flag": ((*SWAP, "0.1", "--formt", "overlay"), "did you mean '--format'?"),
    "unknown flag of another command": (("verify", "src", "--deap"), "did you mean '--deep'?"),
    "shortened flag": ((*SWAP, "0.1", "--work", "2"), "did you mean '--workers'?"),
    "unknown word of list": (("list", "kind"), "did you mean 'kinds'?"),
    "unknown format": ((*SWAP, "0.1", "--format", "overley"), "did you mean 'overlay'?"),
    "unknown share": ((*SWAP, "0.1", "--of", "eligable"), "did you mean 'eligible'?"),
    "unknown mode": ((*FLIP, "0.1", "--mode", "unifrom"), "found 'unifrom'; did you mean 'uniform'?"),
    "mode of another kind": ((*SWAP, "0.1", "--mode", "prior"), "found 'prior'; valid are: any"),
    "unknown kind": (("make", "--source", "src", "--recipe", "kind.toml"), "unknown kind 'swop'; did you mean 'swap'?"),
    "unknown field": (("make", "--source", "src", "--recipe", "field.toml"), "unknown field 'ratoi'; did you mean 'ratio'?"),
    "unknown variant": (
        ("make", "--variant", "openmoji/swap-0.05-s1"),
        "unknown variant 'openmoji/swap-0.05-s1'; did you mean 'openmoji/swap-0.05-s0'?",
    ),
    "unknown data set": (("make", "--dataset", "openmoij", "--swap", "0.1"), "unknown source 'openmoij'; did you mean 'openmoji'?"),
    "unknown data set to fetch": (("fetch", "openmojy"), "unknown source 'openmojy'; did you mean 'openmoji'?"),
    "unknown key rule": ((*SWAP, "0.1", "--key", "sampel"), "unknown key rule 'sampel' for webdataset; did you mean 'sample'?"),
    "key rule without a group": ((*SWAP, "0.1", "--key", "regex:[0-9]+"), "it has no group; put the key in one ( ) group"),
    "unknown split": ((*SWAP, "0.1", "--split", "tset"), "no split 'tset', expected one of: train"),
    "missing source": (("make", "--source", "nowhere", "--swap", "0.1"), "nowhere: no such file or folder"),
    "missing second": (("diff", "src", "nowhere"), "nowhere: no such file or folder"),
    "missing index source": (("index", "nowhere"), "nowhere: no such file or folder"),
    "missing variant": (("show", "nowhere"), "nowhere"),
    "missing variant to restore": (("restore", "nowhere", "--out", "again"), "nowhere"),
    "missing variant to verify": (("verify", "nowhere"), "nowhere"),
    "no tars": (("make", "--source", "empty", "--swap", "0.1"), "empty: no shard or image, expected tars, Parquet or Arrow files"),
    "no tars in a pattern": (("make", "--source", "src/*.zip", "--swap", "0.1"), "src/*.zip: no"),
    "a source that is no variant": (("show", "src"), "corruptkit index"),
    "an unfinished variant": (
        ("make", "--source", "unfinished", "--swap", "0.1"),
        "an unfinished variant, expected a finished one; start the same",
    ),
    "an unfinished variant to show": (("show", "unfinished"), "expected a finished variant"),
    "ratio in per cent": ((*SWAP, "5%"), "found '5%', expected a decimal number such as 0.05"),
    "ratio with a comma": ((*SWAP, "0,05"), "found '05', expected a ratio in [0, 1]"),
    "ratio above one": ((*SWAP, "1.5"), "found '1.5', expected a ratio in [0, 1]"),
    "ratio below zero": ((*SWAP, "-0.1"), "-0.1"),
    "ratio that is no number": ((*SWAP, "nan"), "found 'nan', expected a decimal number"),
    "ratio that is empty": ((*SWAP, ""), "found '', expected a decimal number"),
    "ratio list with a gap": ((*SWAP, "0.1,,0.2"), "found '', expected a decimal number"),
    "ratio list with one mistake": ((*SWAP, "0.1,x"), "found 'x', expected a decimal number"),
    "ratio that is not there": (("make", "--source", "src", "--swap"), "--swap"),
    "negative seed": ((*SWAP, "0.1", "--seed", "-1"), "found '-1', expected a seed: a non-negative integer"),
    "broken seed": ((*SWAP, "0.1", "--seed", "1.5"), "found '1.5', expected a seed"),
    "seed list with one mistake": ((*SWAP, "0.1", "--seed", "0,x"), "found 'x', expected a seed"),
    "kind said twice": ((*SWAP, "0.1", "--flip", "0.1"), "not allowed with argument"),
    "kind and variant": (("make", "--variant", "openmoji/swap-0.05-s0", "--swap", "0.1"), "not allowed with argument"),
    "source said twice": ((*SWAP, "0.1", "--dataset", "openmoji"), "not allowed with argument"),
    "no kind": (
        ("make", "--source", "src"),
        "nothing says how to corrupt; give --flip R, --swap R, --drop R, --constant R, --words R, --rewrite R, --recipe FILE or",
    ),
    "no source": (("make", "--swap", "0.1"), "nothing says what to corrupt; give --dataset NAME or --source PATH"),
    "no source for a plan": (("plan", "--swap", "0.1"), "nothing says what to corrupt"),
    "variant with a mode": (
        ("make", "--variant", "openmoji/swap-0.05-s0", "--mode", "any"),
        "--mode: it stands beside --variant, which says it already; leave out --mode",
    ),
    "variant with a seed": (("make", "--variant", "openmoji/swap-0.05-s0", "--seed", "0"), "leave out --seed"),
    "recipe with a mode": (("make", "--source", "src", "--recipe", "good.toml", "--mode", "any"), "leave out --mode"),
    "recipe with an of": (("make", "--source", "src", "--recipe", "good.toml", "--of", "all"), "leave out --of"),
    "groups that are not there": (
        (*FLIP, "0.1", "--mode", "within", "--groups", "nowhere.json"),
        "nowhere.json': No such file or directory",
    ),
    "groups that are no JSON": ((*FLIP, "0.1", "--mode", "within", "--groups", "good.toml"), "good.toml' is not JSON"),
    "groups of unknown classes": (
        (*FLIP, "0.1", "--mode", "within", "--groups", "groups.json"),
        "groups name class 99, expected classes below 10",
    ),
    "groups without the mode": ((*FLIP, "0.1", "--groups", "groups.json"), "flip mode 'uniform' takes no groups"),
    "mode without groups": ((*FLIP, "0.1", "--mode", "within"), "flip mode 'within' needs groups"),
    "mode without a matrix": ((*FLIP, "0.1", "--mode", "matrix"), "flip mode 'matrix' needs matrix"),
    "matrix that is not there": ((*FLIP, "0.1", "--mode", "matrix", "--matrix", "nowhere.csv"), "nowhere.csv': No such file or directory"),
    "matrix of another size": (
        (*FLIP, "0.1", "--mode", "matrix", "--matrix", "two.csv"),
        "the matrix has 2 rows, expected one for each of 10 classes",
    ),
    "groups for captions": ((*SWAP, "0.1", "--groups", "groups.json"), "unknown field 'groups'"),
    "cap that bites": (
        ("make", "--source", "same", "--flip", "0.9", "--strict"),
        "only 2 rows are eligible, expected 5 to change; lower the ratio",
    ),
    "pairs that are missing": (
        ("make", "--source", "same", "--swap", "0.9", "--strict"),
        "only 0 pairs of different captions were found, expected 2",
    ),
    "flip without labels": (("make", "--source", "no-labels", "--flip", "0.1"), "no row has a label, expected labels to corrupt"),
    "swap without captions": (("make", "--source", "no-captions", "--swap", "0.1"), "no row has a caption, expected captions to corrupt"),
    "too few classes": ((*FLIP, "0.1", "--classes", "3"), "label 9, expected labels below 3; state the right --classes"),
    "classes that are no number": ((*FLIP, "0.1", "--classes", "ten"), "found 'ten', expected a whole number"),
    "negative workers": ((*SWAP, "0.1", "--workers", "-1"), "-1"),
    "recipe that is not there": (
        ("make", "--source", "src", "--recipe", "nowhere.toml"),
        "nowhere.toml: cannot be read: No such file or directory",
    ),
    "recipe that is no TOML": (("make", "--source", "src", "--recipe", "groups.json"), "groups.json: not a TOML file"),
    "catalog that is not there": ((*SWAP, "0.1", "--catalog", "nowhere"), "nowhere: it holds no folder 'sources'"),
    "deep without a source": (("verify", "src/../made", "--deep"), "--source"),
    "out in the source": ((*SWAP, "0.1", "--out", "src/out"), "src/out: the source lies at"),
    "out around the source": ((*SWAP, "0.1", "--out", "."), ".: the source lies at"),
    "out that is a file": ((*SWAP, "0.1", "--out", "good.toml"), "good.toml"),
    "out below a file": ((*SWAP, "0.1", "--out", "good.toml/x"), "good.toml"),
    "out with something else": (
        (*SWAP, "0.1", "--out", "full"),
        "full: the folder holds 'photo.jpg', expected an empty folder or none; choose another --out",
    ),
    "plan into a folder": (("plan", "--source", "src", "--swap", "0.1", "--out", "full"), "full"),
    "plan below a file": (("plan", "--source", "src", "--swap", "0.1", "--out", "good.toml/x"), "good.toml"),
    "restore into something else": (
        ("restore", "made", "--out", "full"),
        "full: the folder is not empty, expected an empty folder or none; choose another --out",
    ),
    "restore to nowhere": (("restore", "made"), "--out"),
    "nothing to show": (("show",), "DIR"),
    "source of too long a name": (("make", "--source", LONG, "--swap", "0.1"), "File name too long"),
    "second of too long a name": (("diff", "src", LONG), "File name too long"),
    "out of too long a name": ((*SWAP, "0.1", "--out", LONG), "File name too long"),
    "restore to too long a name": (("restore", "made", "--out", LONG), "File name too long"),
    "true source of too long a name": (("verify", "made", "--source", LONG), "File name too long"),
    "catalog of too long a name": (("list", "sources", "--catalog", LONG), "File name too long"),
    "source that is a loop": (("make", "--source", "loop", "--swap", "0.1"), "loop"),
    "out that is a loop": ((*SWAP, "0.1", "--out", "loop"), "loop"),
    "source that is a URL": (("make", "--source", "s3://bucket/data", "--swap", "0.1"), "s3://bucket/data"),
}
GIVEN = {
    "good.toml": 'seed = 0\n[[chain]]\nkind = "swap"\nratio = "0.1"\n',
    "kind.toml": 'seed = 0\n[[chain]]\nkind = "swop"\nratio = "0.1"\n',
    "field.toml": 'seed = 0\n[[chain]]\nkind = "swap"\nratio = "0.1"\nratoi = "0.2"\n',
    "groups.json": "[[0, 1], [2, 99]]",
    "two.csv": "0,1\n1,0\n",
    "full/photo.jpg": "",
}


def write_given(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    for name, text in GIVEN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def mistakes(here: Path, run: Run) -> Path:
    """What the mistakes below need: files, and a variant `made`."""
    write_given(here)
    assert run("make", "--source", "src", "--swap", "0.5", "--out", "made").status == 0
    return here


@pytest.mark.parametrize(("words", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_is_one_line_that_says_what_to_do(mistakes: Path, run: Run, words: tuple[str, ...], said: str) -> None:
    before = sorted(path.relative_to(mistakes) for path in mistakes.rglob("*") if ".corruptkit" not in path.parts)
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert any(mark in err for mark in (", expected ", "; ", "did you mean")), "it says what was expected or what to do"
    after = sorted(path.relative_to(mistakes) for path in mistakes.rglob("*") if ".corruptkit" not in path.parts)
    assert after == before, "a mistake leaves nothing behind"


@pytest.mark.parametrize(
    "name", ["unknown command", "unknown flag", "unknown mode", "missing source", "ratio in per cent", "cap that bites"]
)
def test_mistake_is_one_object_for_programs(mistakes: Path, run: Run, name: str) -> None:
    words, _ = MISTAKES[name]
    said = run(*words, "--json")
    assert said.status == 2
    assert set(said.data) == {"command", "variants", "problems"}
    assert (said.data["command"], said.data["variants"]) == (words[0], [])
    (problem,) = said.data["problems"]
    assert set(problem) == {"file", "key", "found", "expected", "do"}
    assert said.err == f"error: {Problem(**problem)}\n"
    assert mistakes.is_dir()


@pytest.mark.parametrize("words", [("make", "--source", "src", "--swap", "0.1"), ("index", "src"), ("list", "sources", "--catalog", "src")])
def test_folder_that_may_not_be_read_is_a_mistake(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """The superuser may read everything, so the refusal is made by hand."""

    def refuse(path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (here / "src" / "sources").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    said = run(*words)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("error: src")
    assert "Permission denied" in said.err
    assert said.err.count("\n") == 1


def test_several_mistakes_are_a_line_each(mistakes: Path, run: Run) -> None:
    (mistakes / "bad.toml").write_text('sead = 0\n[[chain]]\nkind = "swap"\nratio = "2"\nwhere = { clases = [1] }\n', encoding="utf-8")
    said = run("make", "--source", "src", "--recipe", "bad.toml", "--json")
    lines = said.err.splitlines()
    assert len(lines) == len(said.data["problems"]) == 4
    assert all(line.startswith("error: bad.toml, ") for line in lines)


def test_mistakes_in_a_process_are_no_traceback(mistakes: Path) -> None:
    """The same outside of this process: the real exit status, and standard error alone."""
    for name in ("unknown flag", "missing source", "plan into a folder", "out that is a file"):
        words, said = MISTAKES[name]
        done = run_process(*words, cwd=mistakes)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1
        assert said.encode() in done.stderr


def test_conflict_names_the_fields_that_differ(here: Path, run: Run) -> None:
    run("make", "--source", "src", "--swap", "0.5", "--out", "v")
    said = run("make", "--source", "src", "--swap", "0.5", "--seed", "1", "--out", "v")
    assert (said.status, said.out) == (2, "")
    assert "seed" in said.err
    assert "it holds another variant" in said.err
    assert run("make", "--source", "src", "--swap", "0.5", "--out", "v").status == 0, "the same again is done at once"
    assert here.is_dir()


# Exit status


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; start the same command again to resume\n"),
        (DatasetError(Problem("a", "b", "c", "d")), 2, "error: a: b, expected c; d\n"),
        (ConflictError(Problem("a", "b\u2028c"), Problem("x", "y")), 2, None),
    ],
)
def test_status_says_how_it_ended(run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, said: str | None) -> None:
    def fail(_: argparse.Namespace) -> Outcome:
        raise raised

    monkeypatch.setitem(COMMANDS, "list", fail)
    found = run("list", "kinds")
    assert (found.status, found.out) == (status, "")
    if said is None:
        assert [line[:7] for line in found.err.splitlines()] == ["error: "] * 2
    else:
        assert found.err == said


def test_no_is_an_answer_and_no_mistake(here: Path, run: Run) -> None:
    run("make", "--source", "src", "--swap", "0.5", "--out", "v")
    assert run("verify", "v")[::2] == (0, "")
    assert run("diff", "src", "src")[::2] == (0, "")
    assert run("diff", "src", "v")[::2] == (1, "")
    (here / "v" / "shard-00000.tar").write_bytes(b"damaged")
    said = run("verify", "v")
    assert (said.status, said.err) == (1, "")
    assert "NOT verified" in said.out


def test_interrupt_of_a_process_is_130_and_resumes(here: Path) -> None:
    """Ctrl-C reaches a command while its recipe is a pipe that nobody has written to: it is surely running."""
    os.mkfifo(here / "recipe.toml")
    command = [CORRUPTKIT, "make", "--source", "src", "--recipe", "recipe.toml", "--out", "v"]
    running = subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with (here / "recipe.toml").open("w", encoding="utf-8"):  # opens once the command has opened the other end
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (130, b"", b"interrupted; start the same command again to resume\n")
    (here / "recipe.toml").unlink()
    (here / "recipe.toml").write_text(GIVEN["good.toml"], encoding="utf-8")
    assert run_process(*map(str, command[1:]), cwd=here).returncode == 0


# Pipes and terminals


@pytest.mark.parametrize("words", [("list", "variants"), ("list", "variants", "--json"), ("--help",), ("make", "--help")])
def test_reader_that_leaves_is_no_error(words: tuple[str, ...], tmp_path: Path) -> None:
    """As in `corruptkit list variants | head -1`; here the reader has left before a line is written."""
    read, write = os.pipe()
    os.close(read)
    command = [CORRUPTKIT, *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode in (0, 141, -signal.SIGPIPE)


def read_terminal(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:  # the other side has closed
            return
        if not data:
            return
        yield data


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_a_terminal_alone(here: Path, terminal: bool) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    command = [CORRUPTKIT, *SWAP, "0.5", "--workers", "1"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=slave if terminal else subprocess.PIPE) as running:
        os.close(slave)
        shown = b"".join(read_terminal(master)) if terminal else b""
        out, err = running.communicate()
    os.close(master)
    assert running.returncode == 0
    assert out.startswith(b"src-swap-0.5-s0  (webdataset, variant_id ")
    assert b"2/2" not in out
    if terminal:
        assert b"index" in shown
        assert b"write" in shown
    else:
        assert err == b""


HOSTILE = "\x1b[31mred\x1b[0m\x07\r\n\x9b2J\u202etxt\u2066\u2028\x00\x7f"


def assert_harmless(text: str) -> None:
    """Nothing that a terminal acts on but the line ends of our own."""
    active = [
        c
        for c in text
        if c != "\n"
        and (ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F or c in "\u200e\u200f" or "\u202a" <= c <= "\u202e" or "\u2066" <= c <= "\u2069")
    ]
    assert active == []


@pytest.fixture
def hostile(here: Path) -> Path:
    """Two sources whose captions and keys would take over a terminal; keys may hold no control characters, but marks that reorder."""
    for name, keys in (("a", ("one\u202e", "two\u2066", "three")), ("b", ("one\u202e", "two\u200f", "four"))):
        write_shards(
            here / name, [Row(key, number, f"{HOSTILE}{number}{name}") for number, key in enumerate(keys)], members=("png", "txt", "cls")
        )
    return here


def test_hostile_conditions_never_reach_the_terminal_raw(hostile: Path, run: Run) -> None:
    assert hostile.is_dir()
    made = run("make", "--source", "a", "--swap", "1", "--out", "v")
    asked = [
        ("show", "v", "--edits", "9"),
        ("diff", "a", "b"),
        ("diff", "a", "v"),
        ("index", "a"),
        ("verify", "v"),
        ("verify", "v", "--source", "b"),
    ]
    for said in (made, *(run(*words) for words in asked)):
        assert_harmless(said.out + said.err)
        assert said.out
    shown = run("show", "v", "--edits", "9").out
    assert r"\x1b[31mred" in shown
    assert r"two\u2066" in run("diff", "a", "b").out


def test_hostile_conditions_are_whole_in_json(hostile: Path, run: Run) -> None:
    assert hostile.is_dir()
    run("make", "--source", "a", "--swap", "1", "--out", "v")
    for words in (("show", "v", "--edits", "9"), ("diff", "a", "v")):
        said = run(*words, "--json")
        assert_harmless(said.out)
        values = [value for row in said.data.get("edits", said.data.get("changed")) for value in row.values()]
        assert f"{HOSTILE}0a" in values


def test_hostile_manifest_never_reaches_the_terminal_raw(here: Path, run: Run) -> None:
    """Its checksum and its id are sound: whoever publishes a variant writes what he likes into the rest."""
    run("make", "--source", "src", "--swap", "0.5", "--out", "v")
    path = here / "v" / ".corruptkit" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["source"] |= {"name": HOSTILE, "source_url": HOSTILE}
    manifest["circumstance"] |= {"finished": HOSTILE, "versions": {"corruptkit": HOSTILE}, "command": [HOSTILE]}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    path.with_name("manifest.sha256").write_bytes(checksum_line(path.read_bytes()))
    for words in (("show", "v"), ("show", "v", "--json"), ("verify", "v"), ("diff", "src", "v")):
        said = run(*words)
        assert_harmless(said.out + said.err)
    assert r"\x1b[31mred" in run("show", "v").out


@pytest.mark.parametrize("name", ["a\x1b[31m.txt", "a\nb.txt", "../a.txt", "\u202ea"])
def test_hostile_member_never_reaches_the_terminal_raw(here: Path, run: Run, name: str) -> None:
    write_tar(here / "bad.tar", [(name, b"\xff"), (f"{name}.cls", b"\x1b[31m")])
    for words in (("index", "bad.tar"), ("make", "--source", "bad.tar", "--swap", "0.5")):
        said = run(*words)
        assert said.status == 2
        assert_harmless(said.out + said.err)


def test_hostile_path_never_reaches_the_terminal_raw(here: Path, run: Run) -> None:
    assert here.is_dir()
    for words in (
        ("show", HOSTILE.replace("\0", "")),
        ("make", "--source", "\x1b[31m", "--swap", "0.1"),
        ("make", "--dataset", "\x9b2J", "--swap", "0.1"),
    ):
        said = run(*words)
        assert said.status == 2
        assert_harmless(said.err)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_terminal_of_any_encoding_is_served(tmp_path: Path, run: Run, encoding: str) -> None:
    rows = [Row("日本", 0, "é 😀"), Row("ключ", 1, "ascii")]
    write_shards(tmp_path / "s", rows, members=("png", "txt", "cls"))
    assert run("make", "--source", tmp_path / "s", "--swap", "1", "--out", tmp_path / "v").status == 0
    no_utf8 = os.fsdecode(b"no\xffutf8")
    for words, status in (
        (("show", "v", "--edits", "2"), 0),
        (("show", "v", "--edits", "2", "--json"), 0),
        (("show", no_utf8, "--json"), 2),
    ):
        done = run_process(*words, cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == status
        assert b"Traceback" not in done.stderr
        text = done.stdout.decode(encoding)
        assert "--json" not in words or json.loads(text)["command"] == "show"
