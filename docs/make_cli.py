"""Writes docs/cli.md and docs/train-cli.md from the parsers of the two command lines: `python docs/make_cli.py`.

A test fails where a page is stale.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import corruptkit.cli
import corruptkit_train.cli

_HEADER = """# The command line

Made from the code by `python docs/make_cli.py`; do not edit.

Exit status: 0 done; 1 the answer is no (`verify`, `diff`); 2 a mistake, each in one line
`error: where: what was found, what was expected; what to do`; 130 interrupted: the same command again resumes.

With `--json` a command prints one object and nothing else, with fields of its own besides

    {"command": "...",
     "variants": [{"variant_id", "path", "format", "counts"}],
     "problems": [{"file", "key", "found", "expected", "do"}]}
"""

_TRAIN_HEADER = """# The command line of training

Made from the code by `python docs/make_cli.py`; do not edit. [training.md](training.md) says what a run is, [runs.md](runs.md)
what its file may say.

Exit status: 0 done; 2 a mistake, each in one line `error: where: what was found, what was expected; what to do`; 130 interrupted: the same
command again resumes. `python -m corruptkit_train` is the same program, as launchers of several processes start it. With `--json` a command
prints one object and nothing else: `{"command", "variants": [], "problems": [...]}` and fields of its own.
"""


def write_page() -> str:
    """The page of corruptkit."""
    return _write_sections(_HEADER, corruptkit.cli.build_parser())


def write_train_page() -> str:
    """The page of corruptkit-train."""
    return _write_sections(_TRAIN_HEADER, corruptkit_train.cli.build_parser())


def _write_sections(header: str, program: argparse.ArgumentParser) -> str:
    commands = next(action for action in program._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    sections = (_write_command(f"{program.prog} {name}", helps[name], parser) for name, parser in commands.choices.items())
    return "\n".join([header, *sections])


def _write_command(name: str, text: str, parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if action.dest != "help"]
    places = " ".join(str(action.metavar or "|".join(action.choices or ())) for action in actions if not action.option_strings)
    return "\n".join([f"## {name} {places}".rstrip(), "", f"{text[0].upper()}{text[1:]}.", "", *_write_table(actions)])


def _write_table(actions: list[argparse.Action]) -> Iterator[str]:
    yield "| flag | what |"
    yield "|---|---|"
    for action in actions:
        if action.option_strings:
            value = action.metavar or "|".join(action.choices or ())
            flag = f"{action.option_strings[0]} {value}".strip().replace("|", "\\|")
            yield f"| `{flag}` | {(action.help or '').replace('|', chr(92) + '|')}{' (required)' if action.required else ''} |"
    yield ""


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(write_page(), encoding="utf-8")
    (Path(__file__).parent / "train-cli.md").write_text(write_train_page(), encoding="utf-8")
