"""A program at a terminal: words read, one library call made, lines or one JSON object printed, an exit status given."""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from corruptkit.errors import (
    CatalogError,
    CorruptkitError,
    DatasetError,
    LeftoverWarning,
    Problem,
    TransferWarning,
    escape_text,
    nearest_word,
)


@dataclass(frozen=True)
class Outcome:
    """What a command prints, for people and for programs, and its exit status."""

    lines: list[str]
    data: dict[str, Any] = field(default_factory=dict)
    status: int = 0


Commands = Mapping[str, Callable[[argparse.Namespace], Outcome]]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise CatalogError(Problem(self.prog, message, do=f"see {self.prog} --help"))


def start_parser(program: str, text: str, examples: str) -> tuple[Parser, Any]:
    """A program's parser, and what its commands are added to."""
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = Parser(prog=program, description=text, epilog=examples, **how)  # type: ignore[arg-type] # a class and a bool
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser, parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)


def add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A command, with the flag that all of them have."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def whole_number(text: str) -> int:
    """A count, as argparse takes it."""
    if not text.isascii() or not text.isdigit() or int(text) < 0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number")
    return int(text)


def one_of(*words: str) -> Callable[[str], str]:
    """A check of a word, with the nearest valid one in its advice."""

    def check(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"found {text!r}; {nearest_word(text, words)}")
        return text

    return check


def run_program(parser: argparse.ArgumentParser, load_commands: Callable[[], Commands], argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 done, 1 the answer is no, 2 a user's error, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding shows what it can
    as_json = "--json" in words
    command = next((word for word in words if not word.startswith("-")), "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LeftoverWarning)
            warnings.simplefilter("always", TransferWarning)
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            return _run(parser, load_commands, words)
    except CorruptkitError as error:
        return _report(command, error, as_json=as_json)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has left; Python would complain about it at exit
        return 141
    except (OSError, RuntimeError) as error:
        return _report(command, _explain_path(command, error), as_json=as_json)
    except KeyboardInterrupt:
        print("interrupted; start the same command again to resume", file=sys.stderr)
        return 130


def _explain_path(command: str, error: OSError | RuntimeError) -> CorruptkitError:
    """One line for a path that the system refuses: too long, a loop, not to be read. Anything else is our mistake, and raised."""
    loops = str(error).startswith("Symlink loop")  # what pathlib says of a loop, as a RuntimeError
    if not isinstance(error, OSError) and not loops:
        raise error
    reason = "a loop of symbolic links" if loops or not isinstance(error, OSError) else error.strerror or str(error)
    where = str(error).rpartition(" ")[2].strip("'") if loops else str(getattr(error, "filename", None) or command)
    return DatasetError(Problem(where, reason, "a path that can be used", "mend the path or its permissions"))


def _run(parser: argparse.ArgumentParser, load_commands: Callable[[], Commands], words: list[str]) -> int:
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise CatalogError(Problem(parser.prog, f"unknown command '{words[0]}'", do=nearest_word(words[0], commands)))
    args, rest = parser.parse_known_args(words)
    if rest:
        parser = commands.get(args.command, parser)
        flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]  # noqa: SLF001
        raise CatalogError(Problem(parser.prog, f"unknown word '{rest[0]}'", do=nearest_word(rest[0].partition("=")[0], flags)))
    if args.version:
        from importlib.metadata import version

        print(f"{parser.prog} {version(parser.prog)}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    outcome = load_commands()[args.command](args)
    if args.json and (outcome.lines or outcome.data):
        print(json.dumps({"command": args.command, "variants": [], "problems": []} | outcome.data))
    elif outcome.lines:
        print("\n".join(map(escape_text, outcome.lines)))
    sys.stdout.flush()
    return outcome.status


def _report(command: str, error: CorruptkitError, *, as_json: bool) -> int:
    if as_json:
        problems = [problem.as_json() for problem in error.problems]
        print(json.dumps({"command": command, "variants": [], "problems": problems}))
    for problem in error.problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2
