"""Writes docs/cli.md from the command line's own parser: `python docs/make_cli.py`. A test fails where the page is stale."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from corruptkit.cli import build_parser

_HEADER = """# The command line

Made from the code by `python docs/make_cli.py`; do not edit.

Exit status: 0 done; 1 the answer is no (`verify`, `diff`); 2 a mistake, each in one line
`error: where: what was found, what was expected; what to do`; 130 interrupted: the same command again resumes.

With `--json` a command prints one object and nothing else, with fields of its own besides

    {"command": "...",
     "variants": [{"variant_id", "path", "format", "counts"}],
     "problems": [{"file", "key", "found", "expected", "do"}]}
"""


def write_page() -> str:
    """The whole page."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in commands._choices_actions}
    sections = (_write_command(name, helps[name], parser) for name, parser in commands.choices.items())
    return "\n".join([_HEADER, *sections])


def _write_command(name: str, text: str, parser: argparse.ArgumentParser) -> str:
    actions = [action for action in parser._actions if action.dest != "help"]
    places = " ".join(str(action.metavar or "|".join(action.choices or ())) for action in actions if not action.option_strings)
    return "\n".join([f"## corruptkit {name} {places}".rstrip(), "", f"{text[0].upper()}{text[1:]}.", "", *_write_table(actions)])


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
